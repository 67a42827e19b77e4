"""The live judge's HTTP surface: POST /v1/samples, /metrics, /readyz, /livez. Judging is in service.py."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from rlhf_operator.api.signals import LiveBatch
from rlhf_server.intake import Bodies, answer_refusals, read_body
from rlhf_server.judge.errors import Refusal, Unauthorized, Unavailable

from .service import LiveJudge

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CLIENT_GONE = 499


def build_app(judge: LiveJudge) -> FastAPI:
    """The ASGI application; its lifespan runs the judge."""
    bodies = Bodies(judge.settings.max_held_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with judge.running():
            yield

    app = FastAPI(title="Live judge", version="v1", lifespan=lifespan, docs_url=None, redoc_url=None)

    async def samples(request: Request) -> Response:
        code: int = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            # Before a byte of the body is read: who has no key must not fill the memory of those who have.
            _check_key(request, judge.keys())
            with bodies.holding() as take:
                batch = await read_body(request, LiveBatch, judge.settings.max_body_bytes, take)
            judge.take(batch.samples)
            code = HTTPStatus.ACCEPTED
        except Refusal as refusal:
            code = refusal.status
            raise
        except ClientDisconnect:
            code = _CLIENT_GONE
        finally:
            judge.answered(int(code))
        return Response(status_code=int(code))

    async def metrics(request: Request) -> Response:
        return Response(judge.expose(), media_type=_METRICS_TYPE)

    async def readyz(request: Request) -> Response:
        if judge.trouble:
            raise Unavailable(judge.trouble, reason="NotReady")
        return Response("ok")

    async def livez(request: Request) -> Response:
        return Response("ok")

    app.add_route("/v1/samples", samples, methods=["POST"])
    app.add_route("/metrics", metrics)
    app.add_route("/readyz", readyz)
    app.add_route("/livez", livez)
    answer_refusals(app)
    return app


def _check_key(request: Request, keys: Sequence[bytes]) -> None:
    """Raises Unauthorized: made-up answers could roll a good revision back, or keep a bad one."""
    given = request.headers.get("authorization", "").encode("latin-1")
    # All keys, always: how long it takes tells neither which one fits nor how much of it.
    if not any([hmac.compare_digest(b"Bearer " + key, given) for key in keys]):
        raise Unauthorized("samples are taken from this rollout's serving pods only, which send its key")
