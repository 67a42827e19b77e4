"""The ASGI middleware around vLLM's server: roles by port, ids, system prompt, and every answer observed as it passes.

Nothing here waits but for the server behind and the client: what is learnt is handed to Pod, which never waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from rlhf_operator.api.signals import (
    FEEDBACK_TOKEN_HEADER,
    REQUEST_ID_HEADER,
    REVISION_HEADER,
    SERVED_HEADER,
    RequestOutcome,
    Role,
)

from .admin import WARM_UP_HEADER
from .answers import Answer
from .asgi import ROLE, App, Headers, Message, Receive, Scope, Send, answer, refuse
from .bodies import (
    Body,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    headers_of,
    kind_of,
    read_body,
    replay,
    request_id,
    set_headers,
    with_system_prompt,
)
from .exchange import Exchange, Kind, Recorder
from .metrics import slices_of
from .pod import Pod
from .servers import Servers
from .settings import PodSettings

FEEDBACK_PATH = "/v1/feedback"
_COPY_PRIORITY = 1_000_000
_SERVER_ERROR = 500
_log = logging.getLogger(__name__)


class LiveSignals:
    """vLLM makes one with `--middleware rlhf_server.live.middleware.LiveSignals`."""

    def __init__(
        self,
        app: App,
        settings: PodSettings | None = None,
        recorder: Recorder | None = None,
        feedback: App | None = None,
    ) -> None:
        """Wrap the server's app. settings: the environment's unless given."""
        self._app = app
        self.pod = Pod(settings or PodSettings(), recorder)
        self._feedback = self.pod.record() if recorder is None and feedback is None else feedback
        self.servers: Servers | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope.get(ROLE) is Role.SHADOW:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin when the server behind has begun, and end before it says that it has ended."""
        outermost: App = scope.get("app", self)

        async def watching(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete" and self.servers is None:
                self.servers = Servers(outermost, self.pod)
                try:
                    await self.pod.start()
                    await self.servers.start()
                except Exception as error:
                    _log.exception("live signals can't start")
                    await send({"type": "lifespan.startup.failed", "message": f"live signals can't start: {error}"})
                    return
            elif message["type"].startswith("lifespan.shutdown."):
                await self._close()
            await send(message)

        try:
            await self._app(scope, receive, watching)
        finally:
            await self._close()

    async def _close(self) -> None:
        if self.servers is not None:
            servers, self.servers = self.servers, None
            await servers.close()
            await self.pod.close()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        role = scope.get(ROLE, Role.LIVE)
        kind = kind_of(scope)
        headers = headers_of(scope)
        warm_up = self.servers is not None and self.servers.is_warm_up(headers.get(WARM_UP_HEADER, ""))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if role is Role.LIVE and path == FEEDBACK_PATH:
            if self._feedback is None:
                await refuse(send, HTTPStatus.NOT_FOUND, "feedback is not taken here")
            else:
                await self._feedback(scope, receive, send)
        elif role is Role.SHADOW and kind is None:
            await refuse(send, HTTPStatus.NOT_FOUND, "this port takes copies of requests for answers only")
        elif kind is None or warm_up:
            await self._app(scope, receive, send)
        else:
            await _Request(self._app, self.pod, role, kind, headers).run(scope, receive, send)


class _Request:
    """One request for an answer."""

    def __init__(self, app: App, pod: Pod, role: Role, kind: Kind, headers: Mapping[str, str]) -> None:
        self._app, self._pod, self._role, self._kind = app, pod, role, kind
        self._headers = dict(headers)
        self._id = request_id(headers)
        self._headers[REQUEST_ID_HEADER] = self._id
        self._served = headers.get(SERVED_HEADER, "")
        self._slices = slices_of(headers, pod.signals.slices)
        self._started_at = time.time()
        self._started = time.perf_counter()
        self._status = 0
        self._complete = self._gone = False
        self._answer: Answer | None = None
        self._seconds: float | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it, and tell of it."""
        if self._role is Role.SHADOW and self._served == self._pod.settings.revision:
            # This revision answers the original: its copy would be its own answer once more.
            self._count(RequestOutcome.OWN_COPY)
            await answer(send, HTTPStatus.NO_CONTENT, headers=self._own())
            return
        self._pod.metrics.begin(self._role, self._slices)
        try:
            body = await read_body(scope, receive, self._pod.settings.max_body_bytes)
        except ClientGone:
            self._count(RequestOutcome.CANCELLED)
        except BodyTooLarge:
            self._count(RequestOutcome.CLIENT_ERROR)
            limit = self._pod.settings.max_body_bytes
            words = f"the request is larger than {limit} bytes"
            await refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words, self._own(connection="close"))
        except BodyTooSlow:
            self._count(RequestOutcome.CLIENT_ERROR)
            words = "the request did not come to its end in time"
            await refuse(send, HTTPStatus.REQUEST_TIMEOUT, words, self._own(connection="close"))
        else:
            await self._with_body(scope, receive, send, body)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send, body: Body) -> None:
        if self._role is Role.SHADOW and self._pod.sheds():
            self._count(RequestOutcome.SHED)
            self._tell(RequestOutcome.SHED, body, HTTPStatus.SERVICE_UNAVAILABLE)
            words = "too many copies are being answered: this one is left out"
            await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, words, {**self._own(), "retry-after": "1"})
            return
        self._pod.in_flight[self._role] += 1
        failed = True
        try:
            await self._forward(scope, receive, send, body)
            failed = False
        finally:
            self._pod.in_flight[self._role] -= 1
            self._finish(scope, body, failed)

    async def _forward(self, scope: Scope, receive: Receive, send: Send, body: Body) -> None:
        content = with_system_prompt(self._kind, body.content, self._pod.system_prompt)
        if self._pod.settings.copy_priority and self._kind is not Kind.OTHER and content:
            content = _prioritized(content, self._role)
        # The server names its own record of the request by it.
        set_headers(scope, {REQUEST_ID_HEADER: self._id})
        scope["state"] = dict(scope.get("state") or {})
        next_message = replay(scope, receive, body, content)

        async def receiving() -> Message:
            message = await next_message()
            if message["type"] == "http.disconnect" and not self._complete:
                self._gone = True
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._start(message)
                await send(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            last = not message.get("more_body", False)
            self._complete = self._complete or last
            await send(message)
            self._observe(message.get("body", b""), last)

        try:
            await self._app(scope, receiving, sending)
        except Exception:
            if self._status == 0:
                # The server's own words for it come from outside of here, and would not say which revision failed.
                self._status = HTTPStatus.INTERNAL_SERVER_ERROR
                await refuse(send, self._status, "the server failed: its log says why", self._own())
            raise

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        names = {name.encode() for name in (REQUEST_ID_HEADER, REVISION_HEADER, FEEDBACK_TOKEN_HEADER)}
        headers: Headers = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
        headers.append((REQUEST_ID_HEADER.encode(), self._id.encode()))
        headers.append((REVISION_HEADER.encode(), self._pod.settings.revision.encode()))
        answered = HTTPStatus.OK <= self._status < HTTPStatus.MULTIPLE_CHOICES
        if self._role is Role.LIVE and answered and (token := self._pod.feedback_token(self._id, self._slices)):
            headers.append((FEEDBACK_TOKEN_HEADER.encode(), token.encode()))
        message["headers"] = headers
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        self._answer = Answer(self._kind, kind.startswith(b"text/event-stream"), self._pod.settings.max_answer_chars)

    def _observe(self, chunk: bytes, last: bool) -> None:
        seconds = time.perf_counter() - self._started
        if self._answer is not None:
            self._answer.feed(chunk, seconds)
            # Who has read the last word may leave: that is no cancellation.
            self._complete = self._complete or self._answer.ended
        if last:
            self._seconds = seconds
            if self._answer is not None:
                self._answer.close(seconds)

    def _finish(self, scope: Scope, body: Body, failed: bool) -> None:
        """Count and tell. Never raises: the answer has been given."""
        try:
            if self._answer is not None:
                self._server_count(scope, self._answer)
            outcome = self._outcome(failed)
            exchange = self._exchange(outcome, body, self._status)
            self._pod.metrics.ended(exchange)
            if self._pod.wants(self._id):
                self._pod.take(exchange)
        except Exception:
            self._pod.metrics.sample_dropped(self._role, "defect")
            _log.exception("an answer could not be observed")

    def _outcome(self, failed: bool) -> RequestOutcome:
        inside = self._answer.error_status if self._answer is not None else None
        if self._gone and not self._complete:
            return RequestOutcome.CANCELLED
        if failed or not self._complete or self._status >= _SERVER_ERROR or self._status == 0:
            return RequestOutcome.ERROR
        if inside is not None and self._status < HTTPStatus.BAD_REQUEST:
            return RequestOutcome.ERROR if inside >= _SERVER_ERROR else RequestOutcome.CLIENT_ERROR
        if self._answer is not None and self._answer.finish_reason in ("abort", "error"):
            return RequestOutcome.ERROR
        if self._status >= HTTPStatus.BAD_REQUEST:
            return RequestOutcome.CLIENT_ERROR
        return RequestOutcome.OK

    def _server_count(self, scope: Scope, seen: Answer) -> None:
        """Take vLLM's own count of tokens, which it leaves for middlewares; a stream says none unasked."""
        usage = getattr(scope["state"].get("request_metadata"), "final_usage_info", None)
        if usage is not None:
            seen.tokens(getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))

    def _exchange(self, outcome: RequestOutcome, body: Body, status: int) -> Exchange:
        seen = self._answer or Answer(self._kind, False, 0)
        seconds = self._seconds if self._seconds is not None else time.perf_counter() - self._started
        written = seen.output_tokens if seen.output_tokens is not None else seen.chunks or None
        return Exchange(
            request_id=self._id,
            role=self._role,
            revision=self._pod.settings.revision,
            served=self._served,
            kind=self._kind,
            outcome=outcome,
            status=status,
            request=body.content,
            headers=self._headers,
            slices=self._slices,
            answer=seen.text,
            answer_cut=seen.cut,
            finish_reason=seen.finish_reason,
            tool_calls=seen.tool_calls,
            input_tokens=seen.input_tokens,
            output_tokens=written,
            mean_log_prob=seen.mean_log_prob,
            streamed=seen.streamed,
            started_at=self._started_at,
            seconds=seconds,
            first_token_seconds=seen.first_seconds,
        )

    def _tell(self, outcome: RequestOutcome, body: Body, status: int) -> None:
        if self._pod.wants(self._id):
            self._pod.take(self._exchange(outcome, body, status))

    def _count(self, outcome: RequestOutcome) -> None:
        self._pod.metrics.count(self._role, self._slices, outcome)

    def _own(self, **more: str) -> dict[str, str]:
        """Headers of an answer that is ours."""
        return {REQUEST_ID_HEADER: self._id, REVISION_HEADER: self._pod.settings.revision, **more}


def _prioritized(content: Mapping[str, Any], role: Role) -> Mapping[str, Any]:
    """Copies wait behind live requests, and no client goes before another: the engine's queue is ours to order."""
    if role is Role.SHADOW:
        return {**content, "priority": _COPY_PRIORITY}
    if "priority" in content:
        return {name: value for name, value in content.items() if name != "priority"}
    return content
