"""The HTTP surface: routes, limits, errors, what is counted. Scores come from the readiness-guarded queue."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from rlhf_operator.api.scorerfile import Probe, ScorerFile, ScorerKind
from rlhf_scoring.version import total
from rlhf_server.intake import Bodies, answer_refusals, read_body

from .engine import Engine, NoScore, Scored
from .errors import BodyTooLarge, Refusal, RequestInvalid, Unavailable, VersionNotHeld
from .metrics import Metrics
from .queue import Queue
from .readiness import DRAINING, Readiness, unavailable
from .schema import (
    ErrorResponse,
    Health,
    Limits,
    Score,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
    VersionResponse,
)
from .settings import Settings

_JSON = "application/json"
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CLIENT_GONE = 499
_log = logging.getLogger(__name__)

_REFUSALS: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorResponse, "description": "VersionNotHeld: another version is here; the message names it"},
    413: {"model": ErrorResponse, "description": "BodyTooLarge: the body or one text exceeds the limit"},
    422: {"model": ErrorResponse, "description": "RequestInvalid: not JSON, not the schema, or too many items"},
    429: {
        "model": ErrorResponse,
        "description": "QueueFull: come again after Retry-After seconds",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
    },
    500: {"model": ErrorResponse, "description": "InternalError: a defect of the judge"},
    503: {
        "model": ErrorResponse,
        "description": "The engine is away, not ready, or does not score as it did at evaluation; reason says which",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
    },
}


@dataclass(frozen=True)
class Judge:
    """One version being served: what every route needs."""

    settings: Settings
    scorer: ScorerFile
    engine: Engine
    readiness: Readiness
    queue: Queue
    metrics: Metrics
    bodies: Bodies

    @classmethod
    def of(cls, settings: Settings, scorer: ScorerFile, probes: Sequence[Probe], engine: Engine) -> "Judge":
        """Wire one up; nothing runs before the app does."""
        metrics = Metrics()
        metrics.version.labels(version=settings.version).set(1)
        metrics.queue_limit.set(settings.queue_depth)
        readiness = Readiness(
            engine, probes, scorer.probe_tolerance, settings.engine_poll_seconds, changed=metrics.became
        )

        async def timed(items: Sequence[ScoreItem]) -> list[Scored]:
            with metrics.engine_seconds.time():
                return await readiness.score(items)

        queue = Queue(
            timed,
            depth=settings.queue_depth,
            batch_size=settings.batch_size,
            # Graders have one thread: what waits for it can be taken back only as long as it waits here.
            concurrency=1 if scorer.kind is ScorerKind.GRADERS else settings.concurrency,
        )
        metrics.queue_depth.set_function(lambda: queue.size)
        return cls(settings, scorer, engine, readiness, queue, metrics, Bodies(settings.max_held_bytes))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the engine and serve the queue."""
        self.queue.start()
        following = asyncio.create_task(self.readiness.follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await self.queue.close()
            await self.engine.close()

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Answer one request. Raises Refusal."""
        held = self.settings.version
        if request.version is not None and request.version != held:
            raise VersionNotHeld(
                f"version {request.version} is not held here, {held} is: ask the Service of the version you pinned"
            )
        self._check_sizes(request.items)
        if (state := self.readiness.state) is not None and state.reason != DRAINING:
            raise unavailable(state)
        results = await self.queue.submit(request.items)
        if len(results) != len(request.items):
            raise Unavailable(f"{len(results)} scores for {len(request.items)} texts", reason="EngineAnswerInvalid")
        missing = sum(isinstance(result, NoScore) for result in results)
        self.metrics.texts.labels(outcome="missing").inc(missing)
        self.metrics.texts.labels(outcome="scored").inc(len(results) - missing)
        return ScoreResponse(version=held, scores=[self._answer(result) for result in results])

    def _answer(self, result: Scored) -> Score:
        if isinstance(result, NoScore):
            return Score(dimensions=dict.fromkeys(self.scorer.dimensions, None), total=None, missing=result.reason)
        return Score(dimensions={**result}, total=total(result))

    def _check_sizes(self, items: Sequence[ScoreItem]) -> None:
        limits = self.settings
        if len(items) > limits.max_items:
            raise RequestInvalid(f"{len(items)} items, at most {limits.max_items} are taken: send several requests")
        for number, item in enumerate(items):
            for name, text in (("prompt", item.prompt), ("response", item.response)):
                if len(text) > limits.max_text_bytes or len(text.encode()) > limits.max_text_bytes:
                    raise BodyTooLarge(f"items.{number}.{name} is larger than {limits.max_text_bytes} bytes")


def build_app(judge: Judge) -> FastAPI:
    """The ASGI application; its lifespan runs the judge."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with judge.running():
            yield

    app = FastAPI(
        title="RewardModel judge",
        version="v1",
        description="Scores of one version of a RewardModel. The same API whatever scores: a model or graders.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.post(
        "/v1/score",
        summary="Score responses",
        response_model=ScoreResponse,
        response_model_exclude_none=False,
        responses=_REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}},
            }
        },
    )
    async def score(request: Request) -> Response:
        started = time.monotonic()
        code: int = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            answer = await _while_connected(request, judge)
            code = HTTPStatus.OK
            judge.metrics.seconds.observe(time.monotonic() - started)
            return Response(_without_null_reasons(answer), media_type=_JSON)
        except Refusal as refusal:
            code = refusal.status
            raise
        except ClientDisconnect:
            code = _CLIENT_GONE
            return Response(status_code=_CLIENT_GONE)
        finally:
            judge.metrics.requests.labels(code=str(int(code))).inc()

    @app.get("/v1/version", summary="What is held", response_model=VersionResponse)
    async def version() -> VersionResponse:
        settings = judge.settings
        return VersionResponse(
            version=settings.version,
            kind=judge.scorer.kind.value,
            dimensions=judge.scorer.dimensions,
            limits=Limits(
                items=settings.max_items, text_bytes=settings.max_text_bytes, body_bytes=settings.max_body_bytes
            ),
        )

    @app.get("/healthz", summary="Whether the process lives", response_model=Health)
    async def healthz() -> Health:
        return Health()

    @app.get(
        "/readyz",
        summary="Whether every probe scores as it did at evaluation",
        response_model=Health,
        responses={503: {"model": ErrorResponse, "description": "Why not: Starting, EngineAway, ProbeMismatch, …"}},
    )
    async def readyz() -> Health:
        if (state := judge.readiness.state) is not None:
            raise Unavailable(state.message, reason=state.reason)
        return Health()

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(judge.metrics.expose(), media_type=_METRICS_TYPE)

    answer_refusals(app)
    _describe_request(app)
    return app


async def _while_connected(request: Request, judge: Judge) -> ScoreResponse:
    """The answer; a client that goes away takes its texts out of the queue."""
    with judge.bodies.holding() as take:
        asked = await read_body(request, ScoreRequest, judge.settings.max_body_bytes, take)
        return await _answer_while_connected(request, judge, asked)


async def _answer_while_connected(request: Request, judge: Judge, asked: ScoreRequest) -> ScoreResponse:
    answering = asyncio.create_task(judge.score(asked))
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        for task in (answering, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Refusal):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _without_null_reasons(answer: ScoreResponse) -> bytes:
    """The answer as JSON: scores that are missing are null, reasons that are not needed are absent."""
    scores = [
        {
            "dimensions": score.dimensions,
            "total": score.total,
            **({"missing": score.missing} if score.missing else {}),
        }
        for score in answer.scores
    ]
    return bytes(JSONResponse({"version": answer.version, "scores": scores}).body)


def _describe_request(app: FastAPI) -> None:
    """Put the request's schema into the document: the route reads its body by itself, so FastAPI does not know it."""
    document = app.openapi()
    schema = ScoreRequest.model_json_schema(by_alias=True, ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update(schema.pop("$defs", {}))
    schemas["ScoreRequest"] = schema
