"""`python -m rlhf_server.livejudge --plan FILE --port N`: the live judge of one rollout, until SIGTERM."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time

from pydantic import ValidationError
from pydantic_settings import CliApp

from rlhf_server.judge.logs import set_up
from rlhf_server.listening import server as listening

from .app import build_app
from .service import LiveJudge
from .settings import Settings

_BAD_CONFIG = 2
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5
_log = logging.getLogger("rlhf_server.livejudge")


async def run(judge: LiveJudge, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: take nothing more, score what was taken for a while, end."""
    server = listening(build_app(judge), _GRACE_SECONDS, host=settings.host, port=settings.port)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ending.set)

    async def end() -> None:
        await ending.wait()
        judge.draining = True
        _log.info("ending", extra={"queued": judge.queued})
        deadline = time.monotonic() + settings.drain_seconds
        while judge.queued and time.monotonic() < deadline:  # noqa: ASYNC110 - many lanes, no one event
            await asyncio.sleep(_POLL_SECONDS)
        server.should_exit = True

    waiting = asyncio.create_task(end())
    try:
        await server.serve()
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


def main() -> int:
    """Does not come back after SIGTERM, which ends the process with 0; 2 when a setting is wrong."""
    set_up("INFO")
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:])
    except ValidationError as error:
        for entry in error.errors(include_url=False, include_input=False):
            _log.error("setting %s: %s", ".".join(map(str, entry["loc"])), entry["msg"])
        return _BAD_CONFIG
    set_up(settings.log_level)
    try:
        judge = LiveJudge(settings)
    except (OSError, ValueError) as error:
        _log.error("the key that serving pods prove themselves by can't be read: %s", error)
        return _BAD_CONFIG
    asyncio.run(run(judge, settings))
    logging.shutdown()
    # Python would wait for every thread, and one may be waiting for a scorer that hangs. They hold nothing.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
