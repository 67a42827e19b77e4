"""One address that texts may go to: bounded, retried, never redirected. What is asked there is the callers'."""

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from .errors import ScorerConfigError

CONNECT_SECONDS = 5.0
_TOKEN_BYTES = 16 * 1024
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0
_LONGEST_ASKED_PAUSE_SECONDS = 60.0
_WORDS = 300
_NEVER = frozenset({401, 403})
_NOT_THERE = frozenset({404, 405})
_OF_THIS_TEXT = frozenset({400, 413, 422})
_AGAIN = frozenset({408, 409, 425, 429})
_REDIRECTS = range(300, 400)
_JITTER = random.SystemRandom()

Answer = TypeVar("Answer")


class Refused(Exception):
    """The endpoint does not take this question; the message says why."""


class OutOfTime(Exception):
    """No reply before the deadline; the message is the last failure."""


class Retry(Exception):
    """Come again; `pause_seconds` is what the endpoint asked for."""

    def __init__(self, why: str, pause_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.pause_seconds = pause_seconds


class NotThere(ScorerConfigError):
    """The endpoint has no such path, or no such model."""


class Endpoint:
    """An address of a grader. Thread-safe."""

    def __init__(
        self, scorer: str, field: str, url: str, token: Path | None, timeout_seconds: float, answer_bytes: int
    ) -> None:
        """field: `http` or `llmJudge`, for messages. token: file with a bearer token, read for every request anew.

        timeout_seconds: longest time for one request. Raises ScorerConfigError for a URL that is none.
        """
        self.url = url.rstrip("/")
        self._scorer = scorer
        self._field = field
        try:
            scheme = httpx.URL(self.url).scheme
        except httpx.InvalidURL:
            scheme = ""
        if scheme not in ("http", "https"):
            raise ScorerConfigError(scorer, f"{field}.url {self.url} is no http address")
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._answer_bytes = answer_bytes
        self._closing = threading.Event()
        # Proxies from the environment and redirects would take texts to where nobody allowed them.
        self._client = httpx.Client(trust_env=False, follow_redirects=False)

    def retrying(self, ask: Callable[[], Answer], deadline: float) -> Answer:
        """Ask until there is an answer. deadline: of time.monotonic(). Raises OutOfTime, and what `ask` raises."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return ask()
            except Retry as retry:
                # Jitter: the ranks of a job were refused together, and must not come back together.
                wait = min(retry.pause_seconds, _LONGEST_ASKED_PAUSE_SECONDS) + _JITTER.uniform(0.5, 1.0) * pause
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
                if time.monotonic() + wait >= deadline or self._closing.wait(wait):
                    raise OutOfTime(str(retry)) from None

    def request(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        """The body of a 200. Raises Retry for what may pass, Refused and ScorerConfigError for what won't."""
        until = min(deadline, time.monotonic() + self._timeout_seconds)
        timeout = httpx.Timeout(max(0.1, until - time.monotonic()), connect=CONNECT_SECONDS)
        content = bytearray()
        try:
            with self._client.stream(
                method, self.url + path, content=body, headers=self._headers(), timeout=timeout
            ) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > self._answer_bytes:
                        raise Refused(f"the reply is larger than {self._answer_bytes} bytes")
                    # The time-out of a read begins anew with every byte that trickles in.
                    if time.monotonic() > until:
                        raise Retry("the reply took too long")
        except httpx.HTTPError as error:
            raise Retry(f"no answer ({type(error).__name__})") from error
        self._judge_status(response, bytes(content), path)
        return bytes(content)

    def close(self) -> None:
        """Close connections; who still asks is out of time."""
        self._closing.set()
        self._client.close()

    def _judge_status(self, response: httpx.Response, content: bytes, path: str) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        why = f"HTTP {status}{_reason(content)}"
        if status in _REDIRECTS:
            raise ScorerConfigError(
                self._scorer, f"{self.url}{path} answers with a redirect, which is not followed: set its final address"
            )
        if status in _NEVER or status in _NOT_THERE:
            kind = NotThere if status in _NOT_THERE else ScorerConfigError
            fields = ("url", "model", "secretRef") if self._field == "llmJudge" else ("url", "secretRef")
            checked = " and ".join(f"{self._field}.{each}" for each in fields)
            raise kind(self._scorer, f"{self.url}{path} refused: {why}; check {checked}")
        if status in _AGAIN or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Retry(why, _retry_after(response))
        if status in _OF_THIS_TEXT:
            raise Refused(why)
        raise ScorerConfigError(self._scorer, f"{self.url}{path} refused: {why}")

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._token is None:
            return headers
        where = f"{self._field}.secretRef"
        try:
            with self._token.open("rb") as file:
                token = file.read(_TOKEN_BYTES + 1).strip()
        except OSError as error:
            raise ScorerConfigError(
                self._scorer, f"the token file of {where} can't be read: {error.strerror}"
            ) from error
        if not token or len(token) > _TOKEN_BYTES or not token.isascii() or not token.decode().isprintable():
            raise ScorerConfigError(self._scorer, f"the token of {where} is empty, too long or no line of text")
        return {**headers, "authorization": f"Bearer {token.decode()}"}


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and len(value) < 6 else 0.0


def _reason(content: bytes) -> str:
    """The server's own words, when they are there."""
    try:
        error = json.loads(content)
        words = error["error"]["message"] if isinstance(error.get("error"), dict) else error["message"]
        return f": {words}"[:_WORDS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
