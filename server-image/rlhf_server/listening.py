"""An HTTP server inside a process of ours: what every port of the serving image has in common. No routes live here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections: who closes first decides who sees a broken request."""


class Server(uvicorn.Server):
    """Leaves signals to the one whose process this is: uvicorn would raise them again after it has shut down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield


def server(app: Any, grace_seconds: int, **config: Any) -> Server:
    """Return a server that logs nothing by itself and gives running requests this time at its end.

    config: more of uvicorn.Config.
    """
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=grace_seconds,
            **config,
        )
    )
