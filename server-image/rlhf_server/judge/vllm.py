"""The engine that is vLLM: texts to token ids here, ids to logits there, logits to calibrated scores here.

Tokens are made by the Encoder that training used, so that vLLM's own tokenizing never comes between.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf_scoring.encode import (
    Encoded,
    Encoder,
    InputKind,
    default_format,
    load_input_format,
    pad_token,
    takes_token_types,
    without_end_padding,
)
from rlhf_scoring.version import calibration_of, check_model_files

from .engine import EngineAway, NoScore, Scored
from .errors import ConfigError
from .schema import ScoreItem

PLUGIN_ROUTE = "/rlhf/classify"
_HTTP_ERROR = 400
_SERVER_ERROR = 500


class _Labels(BaseModel):
    model_config = ConfigDict(extra="ignore")

    index: int
    probs: list[float]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: list[_Labels]


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore")

    max_model_len: int | None = None


class _Models(BaseModel):
    model_config = ConfigDict(extra="ignore")

    data: list[_Model]


class _Unreadable(Exception):
    """The tokenizer failed on a text."""


class Reader:
    """Turns items into a request for vLLM: by the version's tokenizer, input format and kind of model."""

    def __init__(self, directory: Path) -> None:
        """Read the version's files. Raises ConfigError."""
        # Here and not at the top: it takes a second, and graders need none of it.
        from transformers import AutoConfig, AutoTokenizer

        try:
            check_model_files(directory)
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            stored = load_input_format(directory)
            self.calibration = calibration_of(directory, config)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the model in {directory} can't be read: {error}") from error
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(f"the tokenizer in {directory} has no tokenizer.json: save it as a fast one")
        self.input_format = stored or default_format(config, tokenizer)
        self._encoder = Encoder(tokenizer, self.input_format)
        self._pad = pad_token(tokenizer)
        self._types = takes_token_types(config, self.input_format)

    @property
    def route(self) -> str:
        """Where vLLM is asked: its own route takes ids without token types."""
        return PLUGIN_ROUTE if self._types else "/classify"

    def body(self, items: Sequence[ScoreItem]) -> bytes:
        """The request for these items."""
        inputs = [self._encoder.encode(item.prompt, item.response) for item in items]
        if self._types:
            content: dict[str, Any] = {
                "input": [encoded.input_ids for encoded in inputs],
                "second_segment": [_second_segment(encoded) for encoded in inputs],
            }
        else:
            # A decoder's score is read before trailing padding, which an end token may be; vLLM reads the last token.
            cut = self.input_format.kind is InputKind.CONCATENATION
            content = {
                "input": [
                    without_end_padding(encoded.input_ids, self._pad) if cut else encoded.input_ids
                    for encoded in inputs
                ],
                "use_activation": False,
                "add_special_tokens": False,
            }
        return json.dumps(content).encode()


def _second_segment(encoded: Encoded) -> int:
    """Where token type 1 begins; the length when there is none."""
    types = encoded.token_type_ids
    return types.index(1) if 1 in types else len(types)


class VLLM:
    """A vLLM server with the version's model, in the same pod."""

    def __init__(self, address: str, reader: Reader, *, timeout_seconds: float, concurrency: int) -> None:
        self._reader = reader
        self._client = httpx.AsyncClient(
            base_url=address,
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=concurrency + 2),
            trust_env=False,
        )
        # One thread: a tokenizer keeps its truncation as state, and two threads would take it from each other.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")

    async def check(self) -> None:
        """Raises EngineAway when vLLM does not answer, or takes shorter inputs than the model was trained on."""
        await self._get("/health")
        try:
            models = _Models.model_validate_json(await self._get("/v1/models"))
        except ValidationError as error:
            raise EngineAway("vLLM's /v1/models is no list of models", reason="EngineAnswerInvalid") from error
        wanted = self._reader.input_format.max_length
        limit = min((each.max_model_len for each in models.data if each.max_model_len is not None), default=wanted)
        if limit < wanted:
            raise EngineAway(
                f"vLLM takes {limit} tokens, the model's inputs have up to {wanted}: raise --max-model-len",
                reason="EngineTooShort",
            )

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        """Calibrated scores; a text that vLLM refuses by itself has none."""
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._body, list(items))
        except _Unreadable:
            return await self._one_by_one(items, "the tokenizer can't read this text")
        response = await self._post(body)
        if response.status_code >= _SERVER_ERROR:
            raise EngineAway(f"vLLM answered {response.status_code}")
        if response.status_code in (404, 405):
            raise EngineAway(
                f"vLLM has no route {self._reader.route}: set VLLM_PLUGINS=rlhf on it", reason="EngineWithoutPlugin"
            )
        if response.status_code >= _HTTP_ERROR:
            return await self._one_by_one(items, f"the engine refused this text (HTTP {response.status_code})")
        return self._scores(response.content, len(items))

    async def close(self) -> None:
        """Close connections and the thread."""
        await self._client.aclose()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    def _body(self, items: Sequence[ScoreItem]) -> bytes:
        try:
            return self._reader.body(items)
        except BaseException as error:
            # Whatever a text did to the tokenizer, a panic of its Rust code included, it does to that text only.
            raise _Unreadable from error

    async def _one_by_one(self, items: Sequence[ScoreItem], why: str) -> list[Scored]:
        # A batch holds texts of several clients: what one of them sent must not cost the others their scores.
        if len(items) == 1:
            return [NoScore(why)]
        return [(await self.score([item]))[0] for item in items]

    def _scores(self, content: bytes, count: int) -> list[Scored]:
        try:
            answer = _Answer.model_validate_json(content)
        except ValidationError as error:
            raise EngineAway("vLLM's answer is no list of labels", reason="EngineAnswerInvalid") from error
        heads = len(self._reader.calibration.dimensions)
        found = [entry.probs for entry in sorted(answer.data, key=lambda entry: entry.index)]
        places = sorted(entry.index for entry in answer.data)
        if places != list(range(count)) or any(len(logits) != heads for logits in found):
            raise EngineAway(
                f"vLLM gave {len(found)} results for {count} texts, or another number of labels than {heads}",
                reason="EngineAnswerInvalid",
            )
        if not all(math.isfinite(logit) for logits in found for logit in logits):
            raise EngineAway("vLLM gave a score that is not a number", reason="EngineAnswerInvalid")
        return [self._reader.calibration.scores(logits).dimensions for logits in found]

    async def _post(self, body: bytes) -> httpx.Response:
        try:
            return await self._client.post(
                self._reader.route, content=body, headers={"content-type": "application/json"}
            )
        except httpx.HTTPError as error:
            raise EngineAway(f"vLLM can't be reached ({type(error).__name__})") from error

    async def _get(self, path: str) -> bytes:
        try:
            response = await self._client.get(path)
        except httpx.HTTPError as error:
            raise EngineAway(f"vLLM can't be reached ({type(error).__name__})") from error
        if response.status_code >= _HTTP_ERROR:
            raise EngineAway(f"vLLM's {path} answered {response.status_code}")
        return response.content
