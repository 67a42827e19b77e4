"""Requests of both judges on their way in: bodies read within limits, refusals as answers. No route lives here."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from rlhf_server.judge.errors import BodyTooLarge, QueueFull, Refusal, RequestInvalid
from rlhf_server.judge.schema import ErrorDetail, ErrorResponse

_NAMED_ERRORS = 5
_MESSAGE = 500
_BODY_SECONDS = 30

Read = TypeVar("Read", bound=BaseModel)


class Bodies:
    """The bodies that are held at one time, over all requests: clients are many, memory is not."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Call with the size of each chunk, which raises QueueFull beyond the limit; all is let go with the block."""
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self._bytes + size > self._limit:
                raise QueueFull(
                    f"requests of {self._limit} bytes are being read already: come again later", retry_after_seconds=1
                )
            self._bytes += size
            mine += size

        try:
            yield take
        finally:
            self._bytes -= mine


async def read_body(request: Request, model: type[Read], limit: int, take: Callable[[int], None]) -> Read:
    """The request's body, counted while it comes in. Raises BodyTooLarge, RequestInvalid, QueueFull."""
    too_large = BodyTooLarge(f"the body is larger than {limit} bytes: send fewer items at a time")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                take(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise RequestInvalid(f"the body did not come within {_BODY_SECONDS} s") from None
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        # Never the input itself: it is somebody's text.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        named = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found[:_NAMED_ERRORS])
        raise RequestInvalid(f"{len(found)} errors: {named}"[:_MESSAGE]) from None


def answer_refusals(app: FastAPI) -> None:
    """Every error becomes an ErrorResponse."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    headers = {} if error.retry_after_seconds is None else {"Retry-After": str(error.retry_after_seconds)}
    return _error(error.status, error.reason, error.message, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    return _error(error.status_code, phrase.replace(" ", ""), f"{request.method} {request.url.path}: {phrase}")


async def _defect(request: Request, error: Exception) -> Response:
    return _error(500, "InternalError", f"the judge failed with {type(error).__name__}; its log says where")


def _error(status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = ErrorResponse(error=ErrorDetail(reason=reason, message=message))
    return JSONResponse(body.model_dump(by_alias=True), status_code=status, headers=headers)
