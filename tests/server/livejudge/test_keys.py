"""Who may tell the live judge of answers: the serving pods of its rollout, by their key, and nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from judgekit.live import KEY, Live, judging, keys
from judgekit.samples import NOT_BAD, pair, plan, sample, scorer
from rlhf_operator.api import signals
from rlhf_operator.api.signals import LiveBatch
from servekit.local import REVISION, Serving, serving

OTHER = "o" * 40
BODY = LiveBatch(samples=pair("a", "bad", "bad")).model_dump_json(by_alias=True)


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Live]:
    with judging(tmp_path, plan(scorer("safe", "Violation", NOT_BAD, threshold=0.5))) as live:
        live.wait_ready()
        yield live


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", KEY, f"Bearer {OTHER}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}s", f"Bearer {KEY}\xe9"],
)
def test_made_up_samples_are_refused_and_judged_by_nobody(judge: Live, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    answer = httpx.post(f"{judge.url}/v1/samples", content=BODY, headers=headers, trust_env=False)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "Unauthorized")
    judge.wait_for(1, "rlhf_live_judge_requests_total", code="401")
    judge.send([sample("mine")])
    judge.wait_for(1, signals.JUDGED)
    assert judge.sum("rlhf_live_judge_samples_total") == 1


def test_who_has_no_key_is_refused_before_the_body_comes(judge: Live) -> None:
    host, port = judge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"POST /v1/samples HTTP/1.1\r\nHost: judge\r\nContent-Length: 1000000\r\n\r\n{")
        assert client.recv(64).startswith(b"HTTP/1.1 401")


def test_a_key_can_be_changed_while_it_runs(judge: Live, tmp_path: Path) -> None:
    keys(tmp_path, OTHER, KEY)
    assert judge.send([sample("a")]).status_code == 202
    keys(tmp_path, OTHER)
    judge.wait_until(lambda: judge.send([sample("b")]).status_code == 401)


@pytest.mark.parametrize(("key", "taken"), [(KEY, True), (OTHER, False), ("", False)])
def test_a_pod_tells_its_judge_of_answers_with_the_key_of_its_secret(
    judge: Live, tmp_path: Path, key: str, taken: bool
) -> None:
    if key:
        (tmp_path / "pod" / "keys").mkdir(parents=True)
        (tmp_path / "pod" / "keys" / "samples").write_text(f"{key}\n{'z' * 40}\n")
    (tmp_path / "pod").mkdir(exist_ok=True)
    with serving(tmp_path / "pod", {"judge": judge.url, "judgeSampleRate": 1.0}) as pod:
        pod.until(lambda: pod.signals.pod._judges is not None and bool(pod.signals.pod._judges._judges))
        assert pod.ask().status_code == 200
        refused = {"role": "live", "reason": "judge_refused"}
        if taken:
            judge.wait_for(1, signals.JUDGED)
        else:
            pod.until(lambda: dropped(pod, **refused) == 1)
            judge.wait_for(1, "rlhf_live_judge_requests_total", code="401")


def dropped(pod: Serving, **labels: str) -> float:
    identity = {"rlhf_namespace": "tests", "rlhf_rollout": "policy", "revision": REVISION}
    return pod.signals.pod.metrics.registry.get_sample_value(signals.SAMPLES_DROPPED, {**identity, **labels}) or 0.0
