"""A RewardModel behind its URL as a judge: asks /v1/score of one version, and never takes another one's scores."""

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_operator.api.plan import TOTAL, PlanRewardModel

from .errors import JudgeAway, ScorerConfigError
from .judge import Judgement, Missing, Row, plain_row, version_digest

DEADLINE_SECONDS = 300.0
"""Longest time for one call of `judge`: an engine that restarts is waited for."""
_BATCH_ITEMS = 128
_BODY_MARGIN_BYTES = 1024
_ANSWER_BYTES = 8 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 90.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0
_GRADERS = "Graders"
# The system's: seeding a run must not make its ranks come back together.
_JITTER = random.SystemRandom()


class _Wire(BaseModel):
    # A judge of a later version may say more.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class _Limits(_Wire):
    items: int = Field(ge=1)
    text_bytes: int = Field(alias="textBytes", ge=1)
    body_bytes: int = Field(alias="bodyBytes", ge=1)


class _Held(_Wire):
    version: str
    kind: str
    dimensions: list[str] = Field(min_length=1)
    limits: _Limits


class _Score(_Wire):
    dimensions: dict[str, float | None]
    total: float | None
    missing: str | None = None


class _Answer(_Wire):
    version: str
    scores: list[_Score]


class _Retry(Exception):
    """Come again; `pause_seconds` is what the judge asked for."""

    def __init__(self, why: str, pause_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.pause_seconds = pause_seconds


class _OutOfTime(Exception):
    """The deadline passed; the message is the last failure."""


@dataclass
class _Deadline:
    """One call's time, and the pauses between its attempts."""

    at: float
    pause_seconds: float = _FIRST_PAUSE_SECONDS

    @property
    def left_seconds(self) -> float:
        return self.at - time.monotonic()

    def wait(self, retry: _Retry) -> None:
        """Sleep before the next attempt, at least as long as asked. Raises _OutOfTime when that is too long."""
        # Jitter: the ranks of a job were refused together, and must not come back together.
        pause = retry.pause_seconds + _JITTER.uniform(0.5, 1.0) * self.pause_seconds
        self.pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * self.pause_seconds)
        if pause >= self.left_seconds:
            raise _OutOfTime(str(retry)) from retry
        time.sleep(pause)

    def renew(self) -> None:
        """Something succeeded: the next failure starts with a short pause."""
        self.pause_seconds = _FIRST_PAUSE_SECONDS


class RemoteRewardModel:
    """One dimension of a served RewardModel, or the mean over them."""

    def __init__(self, scorer: str, model: PlanRewardModel, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        """Nothing is asked yet. Raises ScorerConfigError for a URL that is none."""
        self._scorer = scorer
        self._url = str(model.url).rstrip("/")
        if httpx.URL(self._url).scheme not in ("http", "https"):
            raise ScorerConfigError(scorer, f"rewardModel.url {self._url} is no http address")
        self._version = model.version
        self._dimension = model.dimension
        self._deadline_seconds = deadline_seconds
        self._held: _Held | None = None
        # Proxies from the environment would take texts out of the cluster.
        self._client = httpx.Client(
            timeout=httpx.Timeout(_REQUEST_SECONDS, connect=_CONNECT_SECONDS), trust_env=False, follow_redirects=False
        )

    @property
    def digest(self) -> str:
        """Of version and dimension: equal to that of the same version in process, so that a journal works for both.

        Without a version in the plan, the one that is held now is asked for, and kept. Raises ScorerConfigError.
        """
        if self._version is None:
            try:
                self._describe(_Deadline(time.monotonic() + self._deadline_seconds))
            except _OutOfTime as error:
                raise ScorerConfigError(self._scorer, f"{self._url} does not say its version: {error}") from error
        return version_digest(str(self._version), self._dimension)

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Score every response; those that the judge gave no score in time are missing.

        Raises ScorerConfigError when the judge holds another version, or has no such dimension.
        """
        deadline = _Deadline(time.monotonic() + self._deadline_seconds)
        found: list[Judgement] = [Missing("not asked")] * len(responses)
        if not responses:
            return found
        try:
            held = self._describe(deadline)
        except _OutOfTime as error:
            return [self._late(error)] * len(responses)
        items = [
            _encode(prompt, response, row if held.kind == _GRADERS else {}, held.limits)
            for prompt, response, row in zip(prompts, responses, rows, strict=True)
        ]
        for index, item in enumerate(items):
            if isinstance(item, Missing):
                found[index] = item
        asked = [(index, item) for index, item in enumerate(items) if not isinstance(item, Missing)]
        for batch in _batches(asked, held.limits):
            try:
                scores = self._score([item for _, item in batch], deadline)
            except _OutOfTime as error:
                scores = [self._late(error)] * len(batch)
            for (index, _), score in zip(batch, scores, strict=True):
                found[index] = score
        return found

    @property
    def version(self) -> str | None:
        """The version that scores: the plan's, or the one that was found first."""
        return self._version

    def check(self) -> None:
        """Ask once what is held. Raises ScorerConfigError when it is another version, JudgeAway without an answer."""
        self._held = None
        try:
            self._describe(_Deadline(time.monotonic() + _CONNECT_SECONDS, pause_seconds=math.inf))
        except _OutOfTime as error:
            raise JudgeAway(f"{self._url} does not answer: {error}") from error

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _late(self, error: Exception) -> Missing:
        return Missing(f"{self._url} gave no score within {self._deadline_seconds:g} s: {error}", timed_out=True)

    def _describe(self, deadline: _Deadline) -> _Held:
        """What the judge holds; asked once."""
        while self._held is None:
            try:
                content = self._request("GET", "/v1/version", None, deadline)
                held = _Held.model_validate_json(content)
            except ValidationError:
                raise ScorerConfigError(
                    self._scorer, f"{self._url}/v1/version is not a judge's answer: is this a RewardModel's address?"
                ) from None
            except _Retry as retry:
                deadline.wait(retry)
                continue
            deadline.renew()
            self._check(held.version)
            self._choose(held)
            self._version, self._held = held.version, held
        return self._held

    def _choose(self, held: _Held) -> None:
        if self._dimension == TOTAL or self._dimension in held.dimensions or len(held.dimensions) == 1:
            return
        names = ", ".join(held.dimensions)
        raise ScorerConfigError(self._scorer, f"{self._url} has no dimension {self._dimension!r}; it has {names}")

    def _check(self, version: str) -> None:
        """Refuse another version than the first, or the plan's: scores of two models are two scales."""
        if self._version is not None and version != self._version:
            raise ScorerConfigError(
                self._scorer,
                f"{self._url} holds version {version}, the run uses {self._version}: "
                "use the address of that version's own Service",
            )

    def _score(self, items: Sequence[bytes], deadline: _Deadline) -> list[Judgement]:
        """One batch's judgements. Raises _OutOfTime."""
        body = b'{"version":%s,"items":[%s]}' % (json.dumps(self._version).encode(), b",".join(items))
        while True:
            try:
                answer = self._request("POST", "/v1/score", body, deadline)
                judgements = self._judgements(answer, len(items))
            except _Retry as retry:
                deadline.wait(retry)
            else:
                deadline.renew()
                return judgements

    def _judgements(self, content: bytes, count: int) -> list[Judgement]:
        try:
            answer = _Answer.model_validate_json(content)
        except ValidationError:
            raise _Retry("the answer is not a judge's") from None
        self._check(answer.version)
        if len(answer.scores) != count:
            raise _Retry(f"{len(answer.scores)} scores for {count} texts")
        return [self._judgement(score) for score in answer.scores]

    def _judgement(self, score: _Score) -> Judgement:
        if self._dimension == TOTAL and TOTAL not in score.dimensions:
            value = score.total
        elif self._dimension in score.dimensions:
            value = score.dimensions[self._dimension]
        else:
            value = score.total if len(score.dimensions) == 1 else None
        if value is None:
            return Missing(score.missing or "the judge gave no score")
        if not math.isfinite(value):
            raise _Retry("a score is not a number")
        return value

    def _request(self, method: str, path: str, body: bytes | None, deadline: _Deadline) -> bytes:
        """The body of a 200. Raises _Retry for what may pass, ScorerConfigError for what won't."""
        timeout = httpx.Timeout(max(0.1, min(_REQUEST_SECONDS, deadline.left_seconds)), connect=_CONNECT_SECONDS)
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        try:
            with self._client.stream(
                method, self._url + path, content=body, headers=headers, timeout=timeout
            ) as response:
                content = b""
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _ANSWER_BYTES:
                        raise _Retry(f"the answer is larger than {_ANSWER_BYTES} bytes")
        except httpx.HTTPError as error:
            raise _Retry(f"no answer ({type(error).__name__})") from error
        status = response.status_code
        if status == httpx.codes.OK:
            return content
        why = f"HTTP {status}{_reason(content)}"
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _Retry(why, _retry_after(response))
        raise ScorerConfigError(self._scorer, f"{self._url}{path} refused: {why}")


def _encode(prompt: str, response: str, row: Row, limits: _Limits) -> bytes | Missing:
    """One item as JSON; Missing for one that no judge could take."""
    try:
        sizes = len(prompt.encode()), len(response.encode())
    except UnicodeEncodeError:
        return Missing("the text is not valid Unicode")
    if max(sizes) > limits.text_bytes:
        return Missing(f"a text of {max(sizes)} bytes is larger than the judge takes ({limits.text_bytes})")
    item: dict[str, object] = {"prompt": prompt, "response": response}
    if row:
        item["row"] = plain_row(row)
    encoded = json.dumps(item, ensure_ascii=False).encode(errors="replace")
    if len(encoded) + _BODY_MARGIN_BYTES > limits.body_bytes:
        return Missing(f"an item of {len(encoded)} bytes is larger than the judge takes ({limits.body_bytes})")
    return encoded


def _batches(items: Sequence[tuple[int, bytes]], limits: _Limits) -> Iterator[list[tuple[int, bytes]]]:
    """Batches within the judge's limits on items and bytes."""
    batch: list[tuple[int, bytes]] = []
    size = _BODY_MARGIN_BYTES
    for index, item in items:
        if batch and (len(batch) >= min(_BATCH_ITEMS, limits.items) or size + len(item) + 1 > limits.body_bytes):
            yield batch
            batch, size = [], _BODY_MARGIN_BYTES
        batch.append((index, item))
        size += len(item) + 1
    if batch:
        yield batch


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _reason(content: bytes) -> str:
    """The judge's own words, when they are there."""
    try:
        error = json.loads(content)["error"]
        return f" {error['reason']}: {error['message']}"[:300]
    except (ValueError, KeyError, TypeError):
        return ""
