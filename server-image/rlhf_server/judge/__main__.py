"""`python -m rlhf_server.judge --scorer DIR --version sha256:…`: the judge of one version, until SIGTERM."""

import asyncio
import logging
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from .errors import ConfigError
from .logs import set_up
from .serve import load, run
from .settings import Settings

_BAD_CONFIG = 2


def main() -> int:
    """0 after SIGTERM; 2 when it can't start."""
    # A tokenizer needs no torch, and without it the process takes a seventh of the memory and starts in a second.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    set_up("INFO")
    log = logging.getLogger("rlhf_server.judge")
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:])
        set_up(settings.log_level)
        judge = load(settings)
    except ValidationError as error:
        for entry in error.errors(include_url=False, include_input=False):
            log.error("setting %s: %s", ".".join(map(str, entry["loc"])), entry["msg"])
        return _BAD_CONFIG
    except ConfigError as error:
        log.error("the judge can't start: %s", error)
        return _BAD_CONFIG
    log.info("holding", extra={"version": settings.version, "kind": judge.scorer.kind.value})
    asyncio.run(run(settings, judge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
