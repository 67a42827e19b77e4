"""`python -m rlhf_server.live ARGS`: vLLM's OpenAI server in this process, live signals around it; ARGS are vLLM's."""

import logging
import os
import sys

_MIDDLEWARE = "rlhf_server.live.middleware.LiveSignals"
_POLICY = "--scheduling-policy"
_BAD_CONFIG = 2


def arguments(given: list[str]) -> list[str]:
    """The arguments for vLLM, with what live signals need."""
    added = [] if _sets(given, _POLICY) else [_POLICY, "priority"]
    return [*given, *added, "--middleware", _MIDDLEWARE]


def _sets(given: list[str], name: str) -> bool:
    return any(each.replace("_", "-") == name or each.replace("_", "-").startswith(name + "=") for each in given)


def main() -> int:
    """Serve until SIGTERM; 2 when the pod's own settings are wrong, before a model is loaded."""
    given = sys.argv[1:]
    # Whether the queue's order is ours or the user's: read by PodSettings, here and in the middleware.
    os.environ.setdefault("RLHF_COPY_PRIORITY", "false" if _sets(given, _POLICY) else "true")
    # When a series was made is of no use to anyone here, and a third of the scrape.
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")

    # Here and not at the top: some of it reads the environment when it is imported.
    from pydantic import ValidationError

    from rlhf_server.judge.logs import JSONFormatter

    from .middleware import LiveSignals
    from .settings import PodSettings

    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter())
    log = logging.getLogger("rlhf_server")
    log.addHandler(handler)
    log.setLevel("INFO")
    log.propagate = False
    try:
        settings = PodSettings()
        settings.system_prompt()
    except ValidationError as error:
        for entry in error.errors(include_url=False, include_input=False):
            log.error("setting RLHF_%s: %s", ".".join(map(str, entry["loc"])).upper(), entry["msg"])
        return _BAD_CONFIG
    except (OSError, ValueError) as error:
        log.error("the system prompt can't be read: %s", error)
        return _BAD_CONFIG
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    log.info("serving", extra={"revision": settings.revision, "middleware": LiveSignals.__name__})
    sys.argv[1:] = arguments(given)
    serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
