"""A user's service as a grader: rows by POST in batches, several requests under way, scores kept by content."""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf_operator.api.graders import HTTPGrader
from rlhf_scoring.endpoint import CONNECT_SECONDS, Endpoint, OutOfTime, Refused, Retry
from rlhf_scoring.errors import JudgeAway, ScorerConfigError
from rlhf_scoring.judge import Judgement, Missing, Row, digest_of, plain_row, row_number
from rlhf_scoring.remembered import Remembered

DEADLINE_SECONDS = 300.0
"""Longest time for one call: a service that restarts is waited for."""
_BATCH_ITEMS = 32
_BODY_BYTES = 4 * 1024 * 1024
_ITEM_BYTES = 1024 * 1024
_ANSWER_BYTES = 1024 * 1024
_CONCURRENCY = 8
_WORDS = 200


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Failed(_Wire):
    error: str


class _Answer(_Wire):
    scores: list[float | _Failed | None]


class HTTP:
    """Asks a service for scores."""

    def __init__(
        self,
        scorer: str,
        config: HTTPGrader,
        token: Path | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """Nothing is asked yet. token: file with a bearer token. Raises ScorerConfigError."""
        if config.secret_ref is not None and token is None:
            raise ScorerConfigError(scorer, "http.secretRef is set, and the plan has no file for its token")
        self._endpoint = Endpoint(scorer, "http", config.url, token, config.timeout.seconds, _ANSWER_BYTES)
        self._deadline_seconds = deadline_seconds
        self._threads = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix=f"http-grader-{scorer}")
        self._known: Remembered[float] = Remembered()
        self.digest = digest_of("http/1", config.url)

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Score every response; those that the service gave no score in time are missing. Raises ScorerConfigError."""
        deadline = time.monotonic() + self._deadline_seconds
        items = [_item(prompt, response, row) for prompt, response, row in zip(prompts, responses, rows, strict=True)]
        found: dict[bytes, Judgement] = {}
        for item in dict.fromkeys(items):
            if len(item) > _ITEM_BYTES:
                found[item] = Missing(f"an item of {len(item)} bytes is larger than {_ITEM_BYTES}", failed=True)
            elif (known := self._known.get(_key(item))) is not None:
                found[item] = known
        # Equal items are asked for once, and every row that has one gets its score.
        asked = [item for item in dict.fromkeys(items) if item not in found]
        for answers in self._threads.map(lambda batch: self._batch(batch, deadline), _batches(asked)):
            found |= answers
        return [_of_row(found[item], row) for item, row in zip(items, rows, strict=True)]

    def check(self) -> None:
        """Ask once whether the service answers, with no items. Raises ScorerConfigError, JudgeAway."""
        try:
            self._endpoint.request("POST", "", _body([]), time.monotonic() + CONNECT_SECONDS)
        except Retry as retry:
            raise JudgeAway(f"{self._endpoint.url} does not answer: {retry}") from None
        except Refused:
            # It answers; a service need not take a request for nothing.
            return

    def close(self) -> None:
        """End threads and connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._endpoint.close()

    def _batch(self, items: Sequence[bytes], deadline: float) -> Mapping[bytes, Judgement]:
        def ask() -> list[Judgement]:
            return _judgements(self._endpoint.request("POST", "", _body(items), deadline), len(items))

        try:
            judgements = self._endpoint.retrying(ask, deadline)
        except OutOfTime as error:
            late = Missing(f"no score from {self._endpoint.url} in time: {error}", timed_out=True, failed=True)
            return dict.fromkeys(items, late)
        except Refused as error:
            if len(items) > 1:
                # One item that it does not take must not cost the others their scores.
                return {item: judgement for each in items for item, judgement in self._batch([each], deadline).items()}
            return {items[0]: Missing(f"{self._endpoint.url} did not take it: {error}", failed=True)}
        answers = dict(zip(items, judgements, strict=True))
        for item, judgement in answers.items():
            if not isinstance(judgement, Missing):
                self._known.put(_key(item), judgement)
        return answers


def _judgements(content: bytes, count: int) -> list[Judgement]:
    try:
        scores = _Answer.model_validate_json(content).scores
    except ValidationError:
        words = 'the reply is not {"scores": [a number, null or {"error": "why"}, …]}'
        return [Missing(words, failed=True)] * count
    if len(scores) != count:
        return [Missing(f"{len(scores)} scores for {count} items", failed=True)] * count
    return [_judgement(score) for score in scores]


def _judgement(score: float | _Failed | None) -> Judgement:
    if score is None:
        return Missing("the service has no score for it")
    if isinstance(score, _Failed):
        return Missing(f"the service failed: {score.error[:_WORDS]}", failed=True)
    return score if math.isfinite(score) else Missing("the score is not a number", failed=True)


def _of_row(judgement: Judgement, row: Row) -> Judgement:
    """Texts are judged by content; what is told of one that has no score names the row."""
    if not isinstance(judgement, Missing):
        return judgement
    return Missing(f"row {row_number(row)}: {judgement.reason}", judgement.timed_out, judgement.failed)


def _item(prompt: str, response: str, row: Row) -> bytes:
    # Half a surrogate pair has no UTF-8: as JSON's escape it is what it was.
    return json.dumps({"prompt": prompt, "response": response, "row": plain_row(row)}, sort_keys=True).encode()


def _key(item: bytes) -> str:
    return hashlib.sha256(item).hexdigest()


def _body(items: Sequence[bytes]) -> bytes:
    return b'{"items":[' + b",".join(items) + b"]}"


def _batches(items: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= _BATCH_ITEMS or size + len(item) > _BODY_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item) + 1
    if batch:
        yield batch
