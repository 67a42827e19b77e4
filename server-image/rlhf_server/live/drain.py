"""`python -m rlhf_server.live.drain`: the preStop hook. Waits until nothing runs, at most RLHF_DRAIN_SECONDS.

Only the standard library: it starts while the pod is at its busiest. Ends with 0 whatever happens: after it the server
is stopped either way.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

_ADMIN_PORT = 9402
_POLL_SECONDS = 0.5
_QUIET_SECONDS = 5.0
"""Gateways send requests for a while after the pod has left its endpoints."""
_SILENT_SECONDS = 15.0
"""A server that answers no more for so long has nothing left to wait for."""


def wait(
    running: Callable[[], int | None], limit: float, quiet: float = _QUIET_SECONDS, silent: float = _SILENT_SECONDS
) -> str:
    """Why the wait is over. running: how many requests are under way; None: the server does not answer."""
    began = quiet_since = heard = time.monotonic()
    while True:
        count = running()
        now = time.monotonic()
        if count is None:
            if now - heard >= silent:
                return "the server does not answer"
        else:
            heard = now
        if count != 0:
            quiet_since = now
        elif now - quiet_since >= quiet:
            return "nothing runs any more"
        if now - began >= limit:
            return f"{limit:g} s are over"
        time.sleep(min(_POLL_SECONDS, max(0.0, began + limit - now)))


def asked(port: int) -> int | None:
    """Begin to drain, or go on; how many requests are under way."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/drain", method="POST", data=b"")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return int(json.loads(response.read(4096))["running"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def main() -> int:
    """Wait; say why it is over."""
    limit = float(os.environ.get("RLHF_DRAIN_SECONDS", "600"))
    port = int(os.environ.get("RLHF_ADMIN_PORT", str(_ADMIN_PORT)))
    quiet = float(os.environ.get("RLHF_DRAIN_QUIET_SECONDS", str(_QUIET_SECONDS)))
    print(wait(lambda: asked(port), limit, quiet), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
