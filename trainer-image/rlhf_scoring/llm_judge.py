"""A language model behind an OpenAI-compatible address as a judge: of one answer, of two, or as a guard."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rlhf_operator.api.graders import LLMJudgeGrader

from . import llm_prompts as prompts_of
from .endpoint import OutOfTime, Refused
from .errors import ScorerConfigError
from .judge import Judgement, Missing, Row, Verdict, digest_of, row_number
from .llm_client import ChatClient
from .llm_prompts import NothingToJudge, VerdictInvalid
from .remembered import Remembered
from .rubrics import resolve

DEADLINE_SECONDS = 300.0
"""Longest time for one call: an endpoint that restarts is waited for."""
_CONCURRENCY = 8
_TEXT_BYTES = 256 * 1024
_VERDICT_TOKENS = 512
_GUARD_TOKENS = 32
_READINGS = 2
_TICKET_CHARACTERS = 16
_NOTHING = Verdict(-1.0, "nothing to judge")

Answer = TypeVar("Answer")


class LLMJudge:
    """Judges texts by asking a model. Several questions are under way at a time; verdicts are kept by content."""

    def __init__(
        self,
        scorer: str,
        config: LLMJudgeGrader,
        token: Path | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        """Nothing is asked yet. token: file with a bearer token. Raises ScorerConfigError."""
        if config.secret_ref is not None and token is None:
            raise ScorerConfigError(scorer, "llmJudge.secretRef is set, and the plan has no file for its token")
        self._client = ChatClient(scorer, config.url, config.model, token, config.timeout.seconds)
        self._rubric = resolve(config.rubric)
        self._guard = prompts_of.is_guard(config.rubric)
        self._both_orders = config.both_orders
        self._deadline_seconds = deadline_seconds
        self._threads = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix=f"llm-judge-{scorer}")
        # Tickets are made from the question with this key: nobody can guess one, and the same question has the same.
        self._key = secrets.token_bytes(32)
        self._cache: Remembered[Verdict] = Remembered()
        self.digest = digest_of(prompts_of.VERSION, config.url, config.model, self._rubric, self._both_orders)

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Scores between 0 and 1 by the rubric. Raises ScorerConfigError when the endpoint takes no questions."""
        found = self.verdicts(prompts, responses, rows)
        return [verdict if isinstance(verdict, Missing) else verdict.score for verdict in found]

    def verdicts(
        self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]
    ) -> list[Verdict | Missing]:
        """Scores and, from a guard, categories. Raises ScorerConfigError."""
        deadline = time.monotonic() + self._deadline_seconds

        def one(prompt: str, response: str, row: Row) -> Verdict | Missing:
            if (too_large := _sized(row, prompt, response)) is not None:
                return too_large
            return _named(row, lambda: self._verdict(prompt, response, row, deadline))

        return list(self._threads.map(one, prompts, responses, rows))

    def compare(
        self, prompts: Sequence[str], a: Sequence[str], b: Sequence[str], rows: Sequence[Row]
    ) -> list[Judgement]:
        """Per prompt 1 when a is better, 0 when b is, 0.5 for a tie.

        In both orders, only a winner in both is one: a judge that prefers a place contradicts itself, which is a tie.
        With bothOrders off the order is chosen by the texts, so that over many pairs neither place is favoured.
        Raises ScorerConfigError.
        """
        deadline = time.monotonic() + self._deadline_seconds

        def one(prompt: str, mine: str, other: str, row: Row) -> Judgement:
            if (too_large := _sized(row, prompt, mine, other)) is not None:
                return too_large
            if mine == other:
                return 0.5
            return _named(row, lambda: self._comparison(prompt, mine, other, row, deadline))

        return list(self._threads.map(one, prompts, a, b, rows))

    def check(self) -> None:
        """Ask whether the endpoint answers. Raises ScorerConfigError, JudgeAway."""
        self._client.check()

    def close(self) -> None:
        """End threads and connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _verdict(self, prompt: str, response: str, row: Row, deadline: float) -> Verdict:
        if self._guard:
            messages = prompts_of.guard_messages(prompt, response, row)
            return self._cached(
                ("guard", messages),
                lambda _: prompts_of.read_guard(self._client.ask(messages, None, _GUARD_TOKENS, deadline)),
            )

        def ask(ticket: str) -> Verdict:
            messages = prompts_of.score_messages(self._rubric, prompt, response, row, ticket)
            reply = self._client.ask(messages, prompts_of.score_schema(), _VERDICT_TOKENS, deadline)
            return prompts_of.read_score(reply, ticket)

        return self._cached(("score", prompt, response, row.get(prompts_of.SOURCES_COLUMN)), ask)

    def _comparison(self, prompt: str, mine: str, other: str, row: Row, deadline: float) -> float:
        if self._guard:
            scores = [self._verdict(prompt, text, row, deadline).score for text in (mine, other)]
            return 0.5 + (scores[0] - scores[1]) / 2
        if not self._both_orders:
            if _swapped(prompt, mine, other):
                return 1.0 - self._choice(prompt, other, mine, row, deadline)
            return self._choice(prompt, mine, other, row, deadline)
        forth = self._choice(prompt, mine, other, row, deadline)
        back = 1.0 - self._choice(prompt, other, mine, row, deadline)
        return forth if forth == back else 0.5

    def _choice(self, prompt: str, first: str, second: str, row: Row, deadline: float) -> float:
        """1 when the text in the first place is better, 0 when the second is."""

        def ask(ticket: str) -> Verdict:
            messages = prompts_of.choice_messages(self._rubric, prompt, first, second, row, ticket)
            reply = self._client.ask(messages, prompts_of.choice_schema(), _VERDICT_TOKENS, deadline)
            return prompts_of.read_choice(reply, ticket)

        return self._cached(("choice", prompt, first, second, row.get(prompts_of.SOURCES_COLUMN)), ask).score

    def _cached(self, question: tuple[object, ...], ask: Callable[[str], Verdict]) -> Verdict:
        """The verdict on a question, asked for once; one that can't be read is asked for anew under another ticket."""
        text = json.dumps(question, default=str).encode()
        key = hashlib.sha256(text).hexdigest()
        if (known := self._cache.get(key)) is not None:
            if known == _NOTHING:
                raise NothingToJudge
            return known
        for reading in range(1, _READINGS + 1):
            ticket = hmac.new(self._key, text + bytes([reading]), hashlib.sha256).hexdigest()[:_TICKET_CHARACTERS]
            try:
                found = ask(ticket)
            except VerdictInvalid:
                if reading == _READINGS:
                    raise
            except NothingToJudge:
                self._cache.put(key, _NOTHING)
                raise
            else:
                self._cache.put(key, found)
                return found
        raise AssertionError("every reading ends in a verdict or an error")


def _named(row: Row, ask: Callable[[], Answer]) -> Answer | Missing:
    """What is asked for, or why this row has none."""
    try:
        return ask()
    except NothingToJudge:
        return Missing(f"row {row_number(row)}: by the rubric there is nothing to judge")
    except VerdictInvalid as error:
        return Missing(f"row {row_number(row)}: the model's reply is no verdict: {error}", failed=True)
    except Refused as error:
        return Missing(f"row {row_number(row)}: the model's endpoint did not take it: {error}", failed=True)
    except OutOfTime as error:
        return Missing(f"row {row_number(row)}: no verdict in time: {error}", timed_out=True, failed=True)


def _sized(row: Row, *texts: str) -> Missing | None:
    """Why the texts are too large to be asked about."""
    largest = max(len(text.encode(errors="replace")) for text in texts)
    if largest <= _TEXT_BYTES:
        return None
    return Missing(f"row {row_number(row)}: a text of {largest} bytes is larger than {_TEXT_BYTES}")


def _swapped(prompt: str, mine: str, other: str) -> bool:
    """Which of two texts comes first, whoever is asking: half of all pairs each way."""
    low, high = sorted((mine, other))
    odd = hashlib.sha256("\0".join((prompt, low, high)).encode(errors="replace")).digest()[0] % 2
    return (mine == low) == bool(odd)
