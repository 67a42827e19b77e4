"""POST /v1/feedback: a signed token says which answer it is about, and an answer of 2xx says that it is safe.

The token is checked before the body is read; how much is taken is bounded per answer and per pod. The worker process
keeps it; it is counted for the revision that answered, after it is safe and once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol

from pydantic import ValidationError

from rlhf_operator.api.feedback import Feedback, Outcome
from rlhf_operator.api.signals import FEEDBACK_TOKEN_HEADER, OTHER

from .asgi import Message, Receive, Scope, Send, answer
from .frames import Reply
from .limits import Rates, retry_after
from .recorder import WorkerGone
from .refusals import (
    BodyTooLarge,
    FeedbackConflict,
    FeedbackInvalid,
    NotStored,
    Refusal,
    TokenMissing,
    TooManyRequests,
)
from .tokens import Claims, check_token

MAX_BODY_BYTES = 512 * 1024
PER_ANSWER_PER_SECOND, PER_ANSWER_BURST = 1 / 6, 10
PER_POD_PER_SECOND, PER_POD_BURST = 50.0, 100
_BODY_SECONDS = 15.0
_KEEP_SECONDS = 10.0
_NAMED_ERRORS = 5
_RETRY_SECONDS = 5
_JSON = "application/json"
_BEFORE_THE_BODY = (
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_TRUE = frozenset({True, "true", "yes", "1"})
_FALSE = frozenset({False, "false", "no", "0"})
OUTCOME_NAMES = {
    "task_completed": ("task_completed", "task_not_completed"),
    "escalated": ("escalated", "not_escalated"),
}
"""Outcomes that are counted by name, when they were so and when not; all others as `other`."""


class Keeper(Protocol):
    """Keeps feedback; recorder.Recorder does."""

    async def keep(self, feedback: Mapping[str, Any]) -> Reply:
        """Its reply when it is safe or refused. Raises WorkerGone."""


class Counts(Protocol):
    """Counts feedback by the revision that answered."""

    def feedback(self, revision: str, slices: Mapping[str, str], verdict: str) -> None:
        """One verdict."""

    def outcome(self, revision: str, slices: Mapping[str, str], name: str) -> None:
        """One outcome."""


class FeedbackApp:
    """The ASGI app of the one route."""

    def __init__(
        self,
        keys: Callable[[], list[bytes]],
        keeper: Keeper,
        counts: Counts,
        identity: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """keys: those in force; identity: namespace, rollout and pod of what takes the feedback."""
        self._keys, self._keeper, self._counts, self._identity = keys, keeper, counts, dict(identity)
        self._now = now
        self._per_answer = Rates(PER_ANSWER_PER_SECOND, PER_ANSWER_BURST, clock)
        self._per_pod = Rates(PER_POD_PER_SECOND, PER_POD_BURST, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        try:
            if scope["method"] != "POST":
                headers = {"allow": "POST"}
                words = f"{scope['method']} is not taken: feedback is sent by POST"
                await _error(send, HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", words, headers)
                return
            claims = self._claims(scope)
            body = await _body(scope, receive)
            if body is None:
                return
            said = _read(body)
            status, told = await self._keep(claims, said)
        except Refusal as refusal:
            headers = {} if refusal.retry_after_seconds is None else {"retry-after": str(refusal.retry_after_seconds)}
            if refusal.status in _BEFORE_THE_BODY:
                # The body was not read to its end: the connection can't be used again.
                headers["connection"] = "close"
            await _error(send, refusal.status, refusal.reason, refusal.message, headers)
        else:
            await answer(send, status, json.dumps(told).encode(), _JSON)

    def _claims(self, scope: Scope) -> Claims:
        name = FEEDBACK_TOKEN_HEADER.encode()
        given = [value for key, value in scope["headers"] if key.lower() == name]
        if not given:
            raise TokenMissing(f"send the answer's header {FEEDBACK_TOKEN_HEADER} with the feedback about it")
        claims = check_token(self._keys(), given[-1].decode("latin-1").strip(), self._now())
        for rates, key, whose in (
            (self._per_answer, f"{claims.revision} {claims.request_id}", "about this answer"),
            (self._per_pod, "", "at this server"),
        ):
            if wait := rates.take(key):
                raise TooManyRequests(f"too much feedback {whose}: come again", retry_after_seconds=retry_after(wait))
        return claims

    async def _keep(self, claims: Claims, said: Feedback) -> tuple[HTTPStatus, dict[str, Any]]:
        record = {
            **self._identity,
            "schemaVersion": "1",
            "requestId": claims.request_id,
            "revision": claims.revision,
            "receivedAt": datetime.fromtimestamp(self._now(), UTC).isoformat(),
            "slices": dict(claims.slices),
            "feedback": said.dump(),
        }
        try:
            async with asyncio.timeout(_KEEP_SECONDS):
                reply = await self._keeper.keep(record)
        except (WorkerGone, TimeoutError):
            raise _not_stored() from None
        if reply.dropped == "conflict":
            raise FeedbackConflict("this id was used for other feedback about this answer: use another id")
        if reply.dropped is not None:
            raise _not_stored()
        if reply.duplicate:
            return HTTPStatus.OK, {"requestId": claims.request_id, "status": "duplicate"}
        self._count(claims, said)
        # `counted`: the rollout has no volume to keep it on.
        status = "counted" if reply.counted_only else "accepted"
        return HTTPStatus.ACCEPTED, {"requestId": claims.request_id, "status": status}

    def _count(self, claims: Claims, said: Feedback) -> None:
        if said.verdict is not None:
            self._counts.feedback(claims.revision, claims.slices, said.verdict.value)
        elif said.thumbs is not None:
            self._counts.feedback(claims.revision, claims.slices, f"thumbs_{said.thumbs.value}")
        for name in sorted(_outcomes(said)):
            self._counts.outcome(claims.revision, claims.slices, name)


def _outcomes(said: Feedback) -> set[str]:
    """Names under which what came of it is counted; one that is told in two ways counts once."""
    found: set[str] = set()
    if said.task_completed is not None:
        found.add(OUTCOME_NAMES["task_completed"][0 if said.task_completed else 1])
    if said.escalated is not None:
        found.add(OUTCOME_NAMES["escalated"][0 if said.escalated else 1])
    if said.outcome is not None:
        found.add(_named(said.outcome))
    return found


def _named(outcome: Outcome) -> str:
    so, not_so = OUTCOME_NAMES.get(outcome.name, (OTHER, OTHER))
    value = outcome.value.lower() if isinstance(outcome.value, str) else outcome.value
    if value in _TRUE:
        return so
    return not_so if value in _FALSE else OTHER


def _read(body: bytes) -> Feedback:
    try:
        return Feedback.model_validate_json(body)
    except ValidationError as error:
        # Never the input itself: it is somebody's text.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        named = "; ".join(_words(entry["loc"], entry["msg"]) for entry in found[:_NAMED_ERRORS])
        raise FeedbackInvalid(f"{len(found)} errors: {named}"[:500]) from None


def _words(place: tuple[int | str, ...], message: str) -> str:
    # The name of an unknown field was sent too, and may be anything.
    field = ".".join(str(part)[:64] for part in place) or "the body"
    return f"{field}: {message.removeprefix('Value error, ')}"


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; None when the client has gone. Raises BodyTooLarge, FeedbackInvalid."""
    too_large = BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    declared = next((value for key, value in scope["headers"] if key.lower() == b"content-length"), b"")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message: Message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise FeedbackInvalid(f"the body did not come within {_BODY_SECONDS:.0f} s") from None


def _not_stored() -> NotStored:
    words = "the feedback could not be stored and was not counted: send it again, with the same id it counts once"
    return NotStored(words, retry_after_seconds=_RETRY_SECONDS)


async def _error(send: Send, status: HTTPStatus, reason: str, message: str, headers: Mapping[str, str]) -> None:
    body = {"error": {"message": message, "type": reason, "param": None, "code": int(status)}}
    await answer(send, status, json.dumps(body).encode(), _JSON, headers)
