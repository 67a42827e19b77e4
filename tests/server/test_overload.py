"""A real vLLM that is killed under 50 clients and started again."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from judgekit.clients import Clients
from judgekit.process import EngineProcess

from .conftest import Hold, Served

pytestmark = pytest.mark.slow


@pytest.fixture
def engines(served: Served, tmp_path: Path) -> Iterator[Callable[[], EngineProcess]]:
    """Start the version's vLLM again on the port that it had."""
    with ExitStack() as stack:

        def start() -> EngineProcess:
            log = tmp_path / "restarted.log"
            return stack.enter_context(
                EngineProcess(served.version.directory, log, served.prefix, port=served.engine.port)
            )

        yield start


def test_a_killed_engine_costs_answers_and_never_gives_a_wrong_one(
    served: Served, hold: Hold, engines: Callable[[], EngineProcess], record_property: Any
) -> None:
    judge = hold()
    judge.wait_ready()
    with Clients(judge, served.version, items_each=4) as clients:
        judge.wait_for(lambda: clients.outcomes[200] >= 100)
        killed = time.monotonic()
        served.engine.kill()
        judge.wait_for(lambda: judge.get("/readyz").status_code == 503)
        noticed = time.monotonic() - killed
        before = clients.outcomes[200]
        started = time.monotonic()
        engines().wait_ready()
        judge.wait_ready()
        recovered = time.monotonic() - started
        judge.wait_for(lambda: clients.outcomes[200] >= before + 100)
    assert not clients.wrong
    assert set(clients.outcomes) <= {200, 429, 503}
    assert clients.outcomes[503] > 0
    assert "EngineAway" in judge.log.read_text()
    print(
        f"\nnoticed after {noticed:.2f} s, ready {recovered:.1f} s after the engine's start; {dict(clients.outcomes)}"
    )
    record_property("recovery_seconds", recovered)
