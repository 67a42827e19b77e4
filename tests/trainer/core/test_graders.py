"""Graders in real runs: a service that scores, a grader that fails, and what a resumed run need not ask again."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .tiny import World

RAISES = "def grade(prompt, response, row):\n    return {'order': 1.0, 'late': 0.0, 'sorry': 0.5}[prompt.split()[0]]\n"
"""Fails on every prompt that begins with `refund`."""


class Service:
    """Scores by the share of `sorry`, and counts the texts it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
                service.asked += [item["prompt"] + "\0" + item["response"] for item in items]
                scores = [item["response"].split().count("sorry") / 6 for item in items]
                body = json.dumps({"scores": scores}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/score"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def failing(path: Path, **grader: Any) -> dict[str, Any]:
    file = path / "grader.py"
    file.write_text(RAISES)
    python = {"configMap": {"name": "g", "key": "grader.py"}}
    return {"name": "odd", "grader": {"python": python, **grader}, "graderPath": str(file)}


def test_a_service_rewards_while_a_failing_monitor_costs_rows_and_a_killed_run_asks_for_no_text_again(
    world: Callable[..., World], service: Service, tmp_path: Path
) -> None:
    made = world(
        scorers=[{"name": "web", "grader": {"http": {"url": service.url}}}, failing(tmp_path)],
        rewards=[{"scorer": "web", "weight": 1.0}],
        monitors=["odd"],
        training={"steps": 4},
        checkpoints={"everySteps": 4},
    )
    first = made.start()
    first.until_step(3)
    first.kill()
    before = len(service.asked)
    run = made.start(attempt=2)
    assert run.wait() == 0, run.tail()
    # Three steps are in the journal and, with equal weights, give equal texts: at most the fourth is asked for.
    # The kill may have come between its answers and the journal.
    assert len(service.asked) - before <= 16 <= before
    steps = run.events("step")
    assert all("score/web" in step and step["scoreMissing/web"] == 0.0 for step in steps)
    assert any(0 < step["scoreMissing/odd"] < 1 for step in steps)
    # Nothing of the journal is asked again, so that only rows of the fourth step can fail in this attempt.
    told = [warning for step in [*first.events("step"), *steps] for warning in step["warnings"]]
    assert any(warning.startswith("scorer odd failed on ") and "KeyError: 'refund'" in warning for warning in told)


def test_where_the_plan_says_so_a_failing_grader_ends_the_run_and_names_the_row(
    world: Callable[..., World], tmp_path: Path
) -> None:
    made = world(
        scorers=[failing(tmp_path, onError="Fail")],
        rewards=[{"scorer": "odd", "weight": 1.0}],
    )
    run = made.start()
    assert run.wait() == 78, run.tail()
    message = run.message()
    assert (message.failure, message.reason) == ("Config", "GraderFailed")
    assert "scorer odd failed on row " in message.message
    assert "KeyError: 'refund' (line 2 of grader.py)" in message.message
