"""The admin port and the wait before a pod stops."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_operator.api.signals import ADMIN_PORT, RequestOutcome, Role
from rlhf_server.live import __main__ as entry
from rlhf_server.live import drain
from rlhf_server.live.admin import Admin
from servekit.local import Serving


def ready(pod: Serving) -> bool:
    return pod.client.get(f"{pod.admin}/readyz").status_code == 200


def test_ready_after_a_warm_up_that_counts_as_nobodys(pod: Serving) -> None:
    pod.until(lambda: ready(pod))
    assert [body["max_tokens"] for body in pod.behind.received] == [2]
    assert all(pod.count(outcome, role) == 0 for outcome in RequestOutcome for role in Role)
    assert pod.recorder.exchanges == []


def test_nobody_else_can_ask_as_the_warm_up(pod: Serving) -> None:
    pod.ask(headers={"x-rlhf-warm-up": "guessed"})
    pod.until(lambda: pod.count(RequestOutcome.OK) == 1)


def test_not_ready_while_the_server_is_not_healthy(pod: Serving) -> None:
    pod.until(lambda: ready(pod))
    assert pod.client.get(f"{pod.admin}/livez").status_code == 200
    pod.behind.healthy = False
    answer = pod.client.get(f"{pod.admin}/readyz")
    assert answer.status_code == 503
    assert "503" in answer.text
    assert pod.client.get(f"{pod.admin}/livez").status_code == 503


def test_not_ready_before_the_warm_up_was_answered(serve: Callable[..., Serving]) -> None:
    pod = serve()
    pod.behind.app.state.args = SimpleNamespace(host="127.0.0.1", port=9)
    answer = pod.client.get(f"{pod.admin}/readyz")
    assert answer.status_code == 503
    assert "warm-up" in answer.text


def test_metrics_are_ours_and_the_engines(pod: Serving) -> None:
    answer = pod.client.get(f"{pod.admin}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "rlhf_requests_total{" in answer.text
    assert "python_info" in answer.text, "the default registry, where vLLM's are"
    assert pod.client.get(f"{pod.admin}/v1/models").status_code == 404


@pytest.fixture
def hook(pod: Serving) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the preStop hook as the container would."""
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        given = {**os.environ, "RLHF_ADMIN_PORT": pod.admin.rpartition(":")[2], **env}
        command = [sys.executable, "-m", "rlhf_server.live.drain"]
        started.append(subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_hook_waits_for_what_runs_and_copies_are_no_longer_taken(pod: Serving, hook: Callable[..., Any]) -> None:
    pod.until(lambda: ready(pod))
    asking = threading.Thread(target=pod.ask, kwargs={"stream": True, "do": {"wait": "w"}})
    asking.start()
    pod.until(lambda: pod.signals.pod.in_flight[Role.LIVE] == 1)
    process = hook(RLHF_DRAIN_QUIET_SECONDS="0.2")
    pod.until(lambda: pod.signals.pod.draining)
    assert not ready(pod)
    assert pod.ask(url=pod.shadow).status_code == 503
    assert pod.ask().status_code == 200, "the gateway may not know yet"
    assert process.poll() is None
    pod.release("w")
    asking.join(20)
    assert process.wait(20) == 0
    assert "nothing runs" in process.stderr.read()


def test_the_hook_ends_at_its_limit(pod: Serving, hook: Callable[..., Any]) -> None:
    asking = threading.Thread(target=pod.ask, kwargs={"do": {"wait": "w"}})
    asking.start()
    pod.until(lambda: pod.signals.pod.in_flight[Role.LIVE] == 1)
    process = hook(RLHF_DRAIN_SECONDS="1")
    assert process.wait(20) == 0
    assert "1 s are over" in process.stderr.read()
    pod.release("w")
    asking.join(20)


def test_the_hook_does_not_wait_for_a_server_that_is_gone() -> None:
    assert drain.asked(9) is None
    assert drain.wait(lambda: None, 60, silent=0.0) == "the server does not answer"


def test_the_hook_goes_on_after_a_poll_that_failed() -> None:
    counts = iter([1, None, 1, None, 0])
    assert drain.wait(lambda: next(counts), 60, quiet=0.0) == "nothing runs any more"


def test_the_hook_needs_the_standard_library_only() -> None:
    code = "import sys; import rlhf_server.live.drain; print(sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd="server-image"
    )
    assert done.returncode == 0, done.stderr
    assert drain._ADMIN_PORT == ADMIN_PORT
    assert "pydantic" not in done.stdout


async def test_draining_is_begun_from_inside_the_pod_only(pod: Serving) -> None:
    assert pod.signals.servers is not None
    admin: Admin = pod.signals.servers.admin
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    for client in (("10.0.0.7", 1), None):
        await admin({"type": "http", "method": "POST", "path": "/drain", "client": client}, receive, send)
    assert [message["status"] for message in sent if "status" in message] == [403, 403]
    assert not pod.signals.pod.draining


def test_background_work_of_the_engine_counts_as_running(pod: Serving) -> None:
    output = SimpleNamespace(get_num_unfinished_requests=lambda: 2)
    pod.behind.app.state.engine_client = SimpleNamespace(output_processor=output)
    assert pod.client.get(f"{pod.admin}/drain").json()["running"] == 2


def test_the_servers_arguments() -> None:
    ours = ["--middleware", "rlhf_server.live.middleware.LiveSignals"]
    assert entry.arguments(["--model", "m"]) == ["--model", "m", "--scheduling-policy", "priority", *ours]
    for own in (["--scheduling-policy", "fcfs"], ["--scheduling_policy=fcfs"]):
        assert entry.arguments(own) == [*own, *ours]


def test_wrong_settings_are_named_before_a_model_is_loaded() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RLHF_")}
    command = [sys.executable, "-m", "rlhf_server.live", "--model", "m"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    for name in ("RLHF_NAMESPACE", "RLHF_ROLLOUT", "RLHF_REVISION"):
        assert name in done.stderr
