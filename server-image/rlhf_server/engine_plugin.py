"""vLLM's endpoint plugin `rlhf`: classification of token ids together with their token types. Runs inside vLLM.

vLLM's own routes take token types only from texts that they tokenize themselves (`/score`), and then give one label;
`/classify` gives every label, and takes ids without types. Here ids and types are what the judge says.
Loaded when VLLM_PLUGINS names it; the judge is its only client.
"""

import asyncio
import uuid
from argparse import Namespace
from typing import Annotated, Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from vllm import PoolingParams
from vllm.engine.protocol import EngineClient
from vllm.inputs import tokens_input
from vllm.tasks import SupportedTask

ROUTE = "/rlhf/classify"
_INPUTS = 1024
_TOKENS = 1_048_576

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=_TOKENS)]


class ClassifyRequest(BaseModel):
    """Inputs as token ids, each with the place where its second segment begins."""

    model_config = ConfigDict(extra="forbid")

    input: Annotated[list[Ids], Field(min_length=1, max_length=_INPUTS)]
    second_segment: list[Annotated[int, Field(ge=0)]]
    """Per input: the first token of type 1; the input's length when there is none."""

    @model_validator(mode="after")
    def _one_each(self) -> "ClassifyRequest":
        if len(self.second_segment) != len(self.input):
            raise ValueError("input and second_segment must be of the same length")
        return self


class ClassifyTokens:
    """The plugin: one route, the raw logits of every label."""

    name = "rlhf"
    required_tasks: ClassVar[tuple[SupportedTask, ...]] = ("classify",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route."""
        app.add_api_route(ROUTE, _classify, methods=["POST"])

    async def init_state(self, engine_client: EngineClient | None, state: Any, args: Namespace) -> None:
        """Keep the engine for the route."""
        state.rlhf_engine = engine_client


async def _classify(request: ClassifyRequest, raw: Request) -> JSONResponse:
    """Logits as `data[i].probs`, the form that /classify has."""
    engine: EngineClient = raw.app.state.rlhf_engine
    limit = engine.model_config.max_model_len
    longest = max(len(ids) for ids in request.input)
    if longest > limit:
        return JSONResponse({"error": f"an input has {longest} tokens; the model takes {limit}"}, status_code=400)
    base = f"rlhf-{uuid.uuid4().hex}"
    # Not a TaskGroup: vLLM's handlers tell a bad request from a dead engine by the exception as it is.
    logits = await asyncio.gather(
        *(
            _logits(engine, ids, second, f"{base}-{index}")
            for index, (ids, second) in enumerate(zip(request.input, request.second_segment, strict=True))
        )
    )
    return JSONResponse({"data": [{"index": index, "probs": probs} for index, probs in enumerate(logits)]})


async def _logits(engine: EngineClient, ids: list[int], second: int, request_id: str) -> list[float]:
    """Every label's logit: [labels]."""
    params = PoolingParams(task="classify", use_activation=False, extra_kwargs={"compressed_token_type_ids": second})
    params.verify(engine.model_config)
    async for output in engine.encode(tokens_input(ids), params, request_id):
        if output.finished:
            logits: list[float] = output.outputs.data.float().tolist()
            return logits
    raise RuntimeError("the engine ended the request without a result")
