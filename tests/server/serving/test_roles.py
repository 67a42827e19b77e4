"""Which requests are live and which are copies, and what a copy may cost."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from rlhf_operator.api.signals import RequestOutcome, Role
from rlhf_server.live.middleware import LiveSignals
from servekit.local import REVISION, Serving, serving, settings

OK, SHED, OWN = RequestOutcome.OK, RequestOutcome.SHED, RequestOutcome.OWN_COPY


def test_the_port_says_whether_a_request_is_live(pod: Serving) -> None:
    assert pod.ask().status_code == 200
    assert pod.ask(url=pod.shadow).status_code == 200
    assert pod.ask(url=pod.shadow, headers={"x-rlhf-role": "live", "x-forwarded-port": "8000"}).status_code == 200
    pod.until(lambda: len(pod.recorder.exchanges) == 3)
    assert [exchange.role for exchange in pod.recorder.exchanges] == [Role.LIVE, Role.SHADOW, Role.SHADOW]
    assert (pod.count(OK, Role.LIVE), pod.count(OK, Role.SHADOW)) == (1, 2)


def test_a_copy_of_its_own_request_is_not_generated(pod: Serving) -> None:
    answer = pod.ask(url=pod.shadow, headers={"x-rlhf-served": REVISION})
    assert (answer.status_code, answer.content) == (204, b"")
    assert pod.behind.received == []
    assert pod.count(OWN, Role.SHADOW) == 1
    assert pod.ask(url=pod.shadow, headers={"x-rlhf-served": "r0"}).status_code == 200
    assert pod.ask(headers={"x-rlhf-served": REVISION}).status_code == 200, (
        "a live request is answered whatever it says"
    )
    pod.until(lambda: len(pod.recorder.exchanges) == 2)
    assert [exchange.served for exchange in pod.recorder.exchanges] == ["r0", REVISION]


def test_copies_beyond_the_limit_are_shed_and_live_requests_are_not(serve: Callable[..., Serving]) -> None:
    pod = serve({"maxConcurrentShadows": 2, "trajectorySampleRate": 1.0})
    answers: list[int] = []

    def ask(url: str) -> None:
        answers.append(pod.ask(url=url, do={"wait": "go"}).status_code)

    asking = [threading.Thread(target=ask, args=(url,)) for url in [pod.shadow] * 2 + [pod.live] * 12]
    for thread in asking:
        thread.start()
    pod.until(lambda: len(pod.behind.received) == 14)
    assert pod.sample("rlhf_shadows_in_flight", role="shadow") is None, "the gauge has no slices"
    assert 'role="shadow"} 2.0' in next(
        line for line in pod.signals.pod.metrics.expose().decode().splitlines() if line.startswith("rlhf_shadows_in")
    )
    shed = pod.ask(url=pod.shadow)
    assert shed.status_code == 503
    assert shed.json()["error"]["code"] == 503
    assert int(shed.headers["retry-after"]) >= 1
    pod.release("go")
    for thread in asking:
        thread.join(20)
    assert answers == [200] * 14
    assert pod.ask(url=pod.shadow).status_code == 200, "there is room again"
    pod.until(lambda: pod.count(OK, Role.SHADOW) == 3)
    assert (pod.count(SHED, Role.SHADOW), pod.count(OK), pod.count(SHED)) == (1, 12, 0)
    assert [each.outcome for each in pod.recorder.exchanges].count(SHED) == 1


def test_nothing_but_requests_for_answers_comes_in_by_the_shadow_port(pod: Serving) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/load_lora_adapter"), ("GET", "/metrics"), ("POST", "/x")):
        answer = pod.client.request(method, f"{pod.shadow}{path}")
        assert answer.status_code == 404, path
    assert pod.client.get(f"{pod.live}/v1/models").status_code == 200


def test_copies_wait_behind_live_requests_and_no_client_jumps_the_queue(serve: Callable[..., Serving]) -> None:
    pod = serve(copy_priority=True)
    for url in (pod.live, pod.shadow):
        pod.ask(url=url, priority=-5)
    pod.ask()
    live, copy, plain = pod.behind.received
    assert "priority" not in live
    assert "priority" not in plain
    assert copy["priority"] > 0


def test_both_servers_and_the_recorder_end_with_the_app(tmp_path: Path) -> None:
    with serving(tmp_path / "pod") as pod:
        shadow, admin = pod.shadow, pod.admin
        assert pod.client.get(f"{admin}/livez").status_code == 200
        assert (pod.recorder.began, pod.recorder.ended) == (1, 0)
    for url in (shadow, admin):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez")
    assert (pod.recorder.began, pod.recorder.ended) == (1, 1)


async def test_a_second_start_up_starts_nothing_twice(tmp_path: Path) -> None:
    async def app(scope: object, receive: Callable[[], object], send: Callable[[object], object]) -> None:
        for kind in ("startup.complete", "startup.complete", "shutdown.complete"):
            await send({"type": f"lifespan.{kind}"})  # type: ignore[misc]

    ports: list[tuple[int, int]] = []
    signals = LiveSignals(app, settings(tmp_path))  # type: ignore[arg-type]

    async def send(message: object) -> None:
        if signals.servers is not None:
            ports.append((signals.servers.shadow_port, signals.servers.admin_port))

    await signals({"type": "lifespan"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert len(ports) == 2
    assert len(set(ports)) == 1
    assert signals.servers is None


async def test_a_port_that_is_taken_ends_the_start(tmp_path: Path) -> None:
    async def app(scope: object, receive: Callable[[], object], send: Callable[[object], object]) -> None:
        await send({"type": "lifespan.startup.complete"})  # type: ignore[misc]

    sent: list[dict[str, str]] = []

    async def send(message: dict[str, str]) -> None:
        sent.append(message)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        signals = LiveSignals(app, settings(tmp_path, admin_port=port))  # type: ignore[arg-type]
        await signals({"type": "lifespan"}, asyncio.Event().wait, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert f"{port} must be free" in sent[0]["message"]
    assert signals.servers is None
