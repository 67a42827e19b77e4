"""The two servers beside vLLM's own, on its loop: the shadow port with the same app, and the admin port."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket

from rlhf_operator.api.signals import Role
from rlhf_server.listening import server as listening

from .admin import Admin
from .asgi import ROLE, App, Receive, Scope, Send
from .pod import Pod

_BACKLOG = 2048
_CLOSE_SECONDS = 5
_log = logging.getLogger(__name__)


class Listener:
    """One app on one port, until closed."""

    def __init__(self, app: App, host: str, port: int) -> None:
        """Listen. Raises OSError: a port that is taken ends the start, and not later."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._server = listening(app, _CLOSE_SECONDS, interface="asgi3", lifespan="off")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve, on the running loop."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def close(self) -> None:
        """Finish what runs, for a few seconds, and end."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()


class Servers:
    """The shadow and the admin port of one process."""

    def __init__(self, app: App, pod: Pod) -> None:
        self._app, self._pod = app, pod
        self._secret = secrets.token_hex(16)
        self._listeners: list[Listener] = []
        self.admin = Admin(app, pod, self._secret)
        self.shadow_port = self.admin_port = 0

    async def start(self) -> None:
        """Listen on both. Raises OSError."""
        settings = self._pod.settings
        try:
            shadow = Listener(self._as_shadow, settings.host, settings.shadow_port)
            self._listeners.append(shadow)
            admin = Listener(self.admin, settings.host, settings.admin_port)
            self._listeners.append(admin)
        except OSError as error:
            await self.close()
            raise OSError(
                error.errno, f"ports {settings.shadow_port} and {settings.admin_port} must be free: {error.strerror}"
            ) from error
        self.shadow_port, self.admin_port = shadow.port, admin.port
        for listener in self._listeners:
            listener.start()
        self.admin.start()

    async def close(self) -> None:
        """Close both."""
        await self.admin.close()
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        self._listeners.clear()

    def is_warm_up(self, given: str) -> bool:
        """Whether a request is our own warm-up, which counts as nobody's."""
        return bool(given) and hmac.compare_digest(given.encode(), self._secret.encode())

    async def _as_shadow(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROLE] = Role.SHADOW
        await self._app(scope, receive, send)
