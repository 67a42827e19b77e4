"""One question to an OpenAI-compatible endpoint: bounded, retried, never redirected. Prompts are in llm_prompts.py."""

import json
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import JudgeAway, ScorerConfigError

_CONNECT_SECONDS = 5.0
_ANSWER_BYTES = 1024 * 1024
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


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Message(_Wire):
    content: str | None = None


class _Choice(_Wire):
    message: _Message
    finish_reason: str | None = None


class _Completion(_Wire):
    choices: list[_Choice] = Field(min_length=1)


class Refused(Exception):
    """The endpoint does not take this question; the message says why."""


class OutOfTime(Exception):
    """No reply before the deadline; the message is the last failure."""


class _Retry(Exception):
    def __init__(self, why: str, pause_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.pause_seconds = pause_seconds


class _NotThere(ScorerConfigError):
    """The endpoint has no such path, or no such model."""


class ChatClient:
    """Chat completions of one model. Thread-safe."""

    def __init__(self, scorer: str, url: str, model: str, token: Path | None, timeout_seconds: float) -> None:
        """url: base address. token: file with a bearer token, read for every request, for it may be renewed.

        timeout_seconds: longest time for one request. Raises ScorerConfigError for a URL that is none.
        """
        self._scorer = scorer
        self._url = url.rstrip("/")
        try:
            scheme = httpx.URL(self._url).scheme
        except httpx.InvalidURL:
            scheme = ""
        if scheme not in ("http", "https"):
            raise ScorerConfigError(scorer, f"llmJudge.url {self._url} is no http address")
        self._model = model
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._structured = True
        self._closing = threading.Event()
        # Proxies from the environment and redirects would take texts to where nobody allowed them.
        self._client = httpx.Client(trust_env=False, follow_redirects=False)

    def ask(
        self, messages: list[dict[str, str]], schema: Mapping[str, Any] | None, tokens: int, deadline: float
    ) -> str:
        """The reply's text. deadline: of time.monotonic(). Raises Refused, OutOfTime, ScorerConfigError."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._either(messages, schema, tokens, deadline)
            except _Retry as retry:
                wait = min(retry.pause_seconds, _LONGEST_ASKED_PAUSE_SECONDS) + _JITTER.uniform(0.5, 1.0) * pause
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
                if time.monotonic() + wait >= deadline or self._closing.wait(wait):
                    raise OutOfTime(str(retry)) from None

    def check(self) -> None:
        """Ask for the list of models, once. Raises ScorerConfigError, JudgeAway."""
        try:
            self._request("GET", "/models", None, time.monotonic() + _CONNECT_SECONDS)
        except _Retry as retry:
            raise JudgeAway(f"{self._url} does not answer: {retry}") from None
        except (Refused, _NotThere):
            # It answers, and not every server lists its models; what it makes of a question is seen with the first.
            return

    def close(self) -> None:
        """Close connections; who still asks is out of time."""
        self._closing.set()
        self._client.close()

    def _either(
        self, messages: list[dict[str, str]], schema: Mapping[str, Any] | None, tokens: int, deadline: float
    ) -> str:
        """With the schema; without for a server that does not know response_format: the reply is read as strictly."""
        if schema is None or not self._structured:
            return self._once(messages, None, tokens, deadline)
        try:
            return self._once(messages, schema, tokens, deadline)
        except Refused:
            reply = self._once(messages, None, tokens, deadline)
            self._structured = False
            return reply

    def _once(
        self, messages: list[dict[str, str]], schema: Mapping[str, Any] | None, tokens: int, deadline: float
    ) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "seed": 0,
            "max_tokens": tokens,
        }
        if schema is not None:
            form = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        content = self._request("POST", "/chat/completions", json.dumps(body).encode(), deadline)
        try:
            choice = _Completion.model_validate_json(content).choices[0]
        except ValidationError:
            raise _Retry("the reply is no chat completion") from None
        if choice.message.content is None:
            raise Refused(f"the reply has no text (finish reason {str(choice.finish_reason)[:40]})")
        return choice.message.content

    def _request(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        """The body of a 200. Raises _Retry for what may pass, Refused and ScorerConfigError for what won't."""
        until = min(deadline, time.monotonic() + self._timeout_seconds)
        content = b""
        try:
            with self._client.stream(
                method, self._url + path, content=body, headers=self._headers(), timeout=self._timeouts(until)
            ) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _ANSWER_BYTES:
                        raise Refused(f"the reply is larger than {_ANSWER_BYTES} bytes")
                    # The time-out of a read begins anew with every byte that trickles in.
                    if time.monotonic() > until:
                        raise _Retry("the reply took too long")
        except httpx.HTTPError as error:
            raise _Retry(f"no answer ({type(error).__name__})") from error
        self._judge_status(response, content, path)
        return content

    def _judge_status(self, response: httpx.Response, content: bytes, path: str) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        why = f"HTTP {status}{_reason(content)}"
        if status in _REDIRECTS:
            raise ScorerConfigError(
                self._scorer, f"{self._url}{path} answers with a redirect, which is not followed: set its final address"
            )
        if status in _NEVER or status in _NOT_THERE:
            kind = _NotThere if status in _NOT_THERE else ScorerConfigError
            raise kind(
                self._scorer, f"{self._url}{path} refused: {why}; check llmJudge.url, model {self._model} and secretRef"
            )
        if status in _AGAIN or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise _Retry(why, _retry_after(response))
        if status in _OF_THIS_TEXT:
            raise Refused(why)
        raise ScorerConfigError(self._scorer, f"{self._url}{path} refused: {why}")

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._token is None:
            return headers
        try:
            with self._token.open("rb") as file:
                token = file.read(_TOKEN_BYTES + 1).strip()
        except OSError as error:
            raise ScorerConfigError(
                self._scorer, f"the token file of llmJudge.secretRef can't be read: {error.strerror}"
            ) from error
        if not token or len(token) > _TOKEN_BYTES or not token.isascii() or not token.decode().isprintable():
            raise ScorerConfigError(
                self._scorer, "the token of llmJudge.secretRef is empty, too long or no line of text"
            )
        return {**headers, "authorization": f"Bearer {token.decode()}"}

    def _timeouts(self, until: float) -> httpx.Timeout:
        return httpx.Timeout(max(0.1, until - time.monotonic()), connect=_CONNECT_SECONDS)


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
