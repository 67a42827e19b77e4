"""A serving pod's container with a real vLLM and a tiny policy: both ports, counts, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlhf_server.live.tokens import check_token
from servekit import policy
from servekit.judges import FakeJudge, judging
from servekit.process import FEEDBACK_KEY, NAME, PolicyServer

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
PROMPT = "w7 w8 w9"
SHUTDOWN_SECONDS = 60
_PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy.make(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def judge() -> Iterator[FakeJudge]:
    with judging(FakeJudge()) as listening:
        yield listening


@pytest.fixture(scope="module")
def server(
    model: Path, judge: FakeJudge, prefix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PolicyServer]:
    """One pod for the module; its last test ends it."""
    signals = {"judge": judge.url, "judgeSampleRate": 1.0, "slices": {"team": ["search"]}}
    folder = tmp_path_factory.mktemp("pod")
    args = ("--shutdown-timeout", str(SHUTDOWN_SECONDS))
    with PolicyServer(model, folder, prefix, signals=signals, system_prompt=PROMPT, args=args) as process:
        process.wait_ready()
        yield process


def value(server: PolicyServer, name: str, **labels: str) -> float:
    """One sample of a scrape; slices are empty unless named."""
    wanted = {"team": "", "feature": "", "cohort": "", "language": "", **labels}
    for line in server.metrics().splitlines():
        found, _, number = line.rpartition(" ")
        if found.startswith(f"{name}{{") and all(f'{key}="{each}"' in found for key, each in wanted.items()):
            return float(number)
    raise AssertionError(f"no {name} with {labels}")


def chat(tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "w1 w2"}]
    return {"model": NAME, "messages": messages, "max_tokens": tokens, "ignore_eos": True, **more}


def generated(server: PolicyServer) -> float:
    """Tokens that vLLM itself has counted."""
    lines = server.metrics().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:generation_tokens_total"))


def test_the_first_scrape_has_a_0_for_every_end(server: PolicyServer) -> None:
    for role in ("live", "shadow"):
        for outcome in ("ok", "error", "client_error", "cancelled", "shed", "own_copy"):
            assert value(server, "rlhf_requests_total", role=role, outcome=outcome) == 0
    assert "_created" not in server.metrics()
    assert "vllm:num_requests_waiting{" in server.metrics()


def test_both_ports_answer_and_tokens_are_vllms_count(server: PolicyServer, judge: FakeJudge) -> None:
    before, vllm_before = value(server, "rlhf_tokens_total", role="live", direction="output"), generated(server)
    answer = server.post(CHAT, chat(20)).json()
    streamed = server.post(CHAT, chat(33, stream=True)).text
    assert server.post(COMPLETIONS, {"model": NAME, "prompt": "w1", "max_tokens": 11, "ignore_eos": True}).is_success
    assert server.post(RESPONSES, {"model": NAME, "input": "w1", "max_output_tokens": 5}).is_success
    copy = httpx.post(f"{server.shadow_url}{CHAT}", json=chat(9), headers={"x-rlhf-served": "r0"}, timeout=60)
    assert copy.status_code == 200
    server.wait_for(lambda: value(server, "rlhf_requests_total", role="live", outcome="ok") == 4)
    server.wait_for(lambda: value(server, "rlhf_requests_total", role="shadow", outcome="ok") == 1)
    counted = value(server, "rlhf_tokens_total", role="live", direction="output") - before
    copied = value(server, "rlhf_tokens_total", role="shadow", direction="output")
    assert copied == 9
    server.wait_for(lambda: generated(server) - vllm_before == counted + copied)
    assert counted >= 20 + 33 + 11 + 1
    # user w1 w2 assistant, behind system and its three words.
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": 8, "completion_tokens": 20}
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert all("usage" not in chunk for chunk in chunks), "the user gets what was asked for, and no more"
    first = value(server, "rlhf_time_to_first_token_seconds_sum", role="live")
    assert 0 < first < value(server, "rlhf_request_seconds_sum", role="live") + 1e-9
    server.wait_for(lambda: len(judge.ids()) >= 5)
    told = {sample.finish_reason for sample in judge.samples}
    assert told == {"length"}, told
    text = answer["choices"][0]["message"]["content"]
    assert text in [sample.answer for sample in judge.samples]
    assert all(PROMPT not in sample.prompt for sample in judge.samples)


def test_ids_and_tokens_for_feedback(server: PolicyServer) -> None:
    headers = {"x-request-id": "given-1", "x-rlhf-team": "search"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        answer = client.post(CHAT, json=chat(2))
    assert answer.headers["x-request-id"] == "given-1"
    assert answer.json()["id"].endswith("given-1")
    claims = check_token([FEEDBACK_KEY.encode()], answer.headers["x-rlhf-feedback-token"], time.time())
    assert (claims.request_id, claims.revision) == ("given-1", server.revision)
    server.wait_for(lambda: value(server, "rlhf_requests_total", role="live", outcome="ok", team="search") == 1)


def test_a_copy_of_its_own_request_generates_nothing(server: PolicyServer) -> None:
    before = generated(server)
    for _ in range(3):
        answer = httpx.post(f"{server.shadow_url}{CHAT}", json=chat(50), headers={"x-rlhf-served": server.revision})
        assert (answer.status_code, answer.content) == (204, b"")
    assert value(server, "rlhf_requests_total", role="shadow", outcome="own_copy") == 3
    assert generated(server) == before


def test_what_vllm_refuses_is_the_clients_error(server: PolicyServer) -> None:
    before = value(server, "rlhf_requests_total", role="live", outcome="client_error")
    too_long = chat(2) | {"messages": [{"role": "user", "content": "w1 " * policy.MAX_LENGTH}]}
    for body in ({}, {"messages": 5}, chat(-1), too_long):
        assert server.post(CHAT, body).status_code == 400
    assert httpx.post(f"{server.url}{CHAT}", content=b"{", headers={"content-type": "application/json"}).is_client_error
    server.wait_for(lambda: value(server, "rlhf_requests_total", role="live", outcome="client_error") == before + 5)


def test_a_client_that_leaves_stops_the_generation(server: PolicyServer) -> None:
    body = chat(10_000, stream=True)
    with httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=60) as stream:
        # Kept: an iterator that nobody holds closes the connection.
        lines = stream.iter_lines()
        assert next(lines)
        assert server.admin.get("/drain").json()["live"] == 1
    server.wait_for(lambda: value(server, "rlhf_requests_total", role="live", outcome="cancelled") == 1)
    server.wait_for(lambda: server.admin.get("/drain").json()["running"] == 0)


def test_a_live_request_does_not_wait_for_copies(server: PolicyServer) -> None:
    server.set_signals({"maxConcurrentShadows": 24})
    ending = threading.Event()

    def copy() -> None:
        # The new limit is in force once the pod has looked at the file: until then some are refused.
        while not ending.wait(0.05):
            with httpx.stream("POST", f"{server.shadow_url}{CHAT}", json=chat(12_000, stream=True), timeout=120) as got:
                for _ in got.iter_lines():
                    if ending.is_set():
                        return

    def shadows() -> int:
        return int(server.admin.get("/drain").json()["shadow"])

    copies = [threading.Thread(target=copy) for _ in range(24)]
    for thread in copies:
        thread.start()
    try:
        server.wait_for(lambda: shadows() == 24)
        assert httpx.post(f"{server.shadow_url}{CHAT}", json=chat(2), timeout=60).status_code == 503
        assert server.post(CHAT, chat(5)).is_success
        assert shadows() == 24, "the copies are all still under way"
    finally:
        ending.set()
        for thread in copies:
            thread.join(120)
    server.set_signals({})
    server.wait_for(lambda: server.admin.get("/drain").json()["running"] == 0)
    assert value(server, "rlhf_requests_total", role="shadow", outcome="client_error") == 0, "vLLM takes their priority"


class Stream:
    """A streamed answer, read in a thread."""

    def __init__(self, server: PolicyServer, tokens: int) -> None:
        self.events, self.error, self.seconds = 0, "", 0.0
        self._url, self._body = f"{server.url}{CHAT}", chat(tokens, stream=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        server.wait_for(lambda: self.events > 2)

    def _read(self) -> None:
        began = time.monotonic()
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=_PATIENCE_SECONDS) as stream:
                for line in stream.iter_lines():
                    self.events += line.startswith("data: {")
                    self.error += line if '"error"' in line else ""
                    self.last = line or getattr(self, "last", "")
        except httpx.HTTPError as error:
            self.error = repr(error)
        self.seconds = time.monotonic() - began

    def ended(self) -> "Stream":
        self._thread.join(_PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self


def test_a_pod_that_stops_lets_its_streams_end(server: PolicyServer) -> None:
    """Last in this module: preStop hook, then SIGTERM, as the kubelet does."""
    short = Stream(server, 800)
    env = {**os.environ, "RLHF_ADMIN_PORT": str(server.admin_port), "RLHF_DRAIN_QUIET_SECONDS": "0.5"}
    hook = subprocess.Popen(
        [sys.executable, "-m", "rlhf_server.live.drain"], env=env, stderr=subprocess.PIPE, text=True
    )
    server.wait_for(lambda: not server.ready())
    assert hook.poll() is None
    assert short.ended().error == ""
    said = hook.communicate(timeout=60)[1]
    assert (hook.returncode, "nothing runs" in said) == (0, True)
    # And one that came after the hook, or outlived it.
    rate = short.events / short.seconds
    long = Stream(server, min(int(30 * rate), policy.MAX_LENGTH - 100))
    server.signal(signal.SIGTERM)
    assert long.ended().error == ""
    assert long.last == "data: [DONE]"
    assert long.seconds > 10
    assert server.wait() == 0
    print(f"\n{long.events} events in {long.seconds:.1f} s after SIGTERM")
