"""One question to an OpenAI-compatible endpoint. Prompts are in llm_prompts.py, the way there is in endpoint.py."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .endpoint import CONNECT_SECONDS, Endpoint, NotThere, Refused, Retry
from .errors import JudgeAway

_ANSWER_BYTES = 1024 * 1024


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Message(_Wire):
    content: str | None = None


class _Choice(_Wire):
    message: _Message
    finish_reason: str | None = None


class _Completion(_Wire):
    choices: list[_Choice] = Field(min_length=1)


class ChatClient:
    """Chat completions of one model. Thread-safe."""

    def __init__(self, scorer: str, url: str, model: str, token: Path | None, timeout_seconds: float) -> None:
        """url: base address. token: file with a bearer token, read for every request, for it may be renewed.

        timeout_seconds: longest time for one request. Raises ScorerConfigError for a URL that is none.
        """
        self._endpoint = Endpoint(scorer, "llmJudge", url, token, timeout_seconds, _ANSWER_BYTES)
        self._model = model
        self._structured = True

    def ask(
        self, messages: list[dict[str, str]], schema: Mapping[str, Any] | None, tokens: int, deadline: float
    ) -> str:
        """The reply's text. deadline: of time.monotonic(). Raises Refused, OutOfTime, ScorerConfigError."""
        return self._endpoint.retrying(lambda: self._either(messages, schema, tokens, deadline), deadline)

    def check(self) -> None:
        """Ask for the list of models, once. Raises ScorerConfigError, JudgeAway."""
        try:
            self._endpoint.request("GET", "/models", None, time.monotonic() + CONNECT_SECONDS)
        except Retry as retry:
            raise JudgeAway(f"{self._endpoint.url} does not answer: {retry}") from None
        except (Refused, NotThere):
            # It answers, and not every server lists its models; what it makes of a question is seen with the first.
            return

    def close(self) -> None:
        """Close connections; who still asks is out of time."""
        self._endpoint.close()

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
        content = self._endpoint.request("POST", "/chat/completions", json.dumps(body).encode(), deadline)
        try:
            choice = _Completion.model_validate_json(content).choices[0]
        except ValidationError:
            raise Retry("the reply is no chat completion") from None
        if choice.message.content is None:
            raise Refused(f"the reply has no text (finish reason {str(choice.finish_reason)[:40]})")
        return choice.message.content
