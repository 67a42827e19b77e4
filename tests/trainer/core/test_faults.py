"""Every way to end has its own exit code and its own words, and none is lost on the way through the launcher."""

import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_operator.api.result import Progress

from .tiny import Run, World

LONG = {"training": {"steps": 2000}, "checkpoints": {"everySteps": 100000}}


def test_a_wrong_field_is_a_config_error_by_name_before_a_model_is_loaded(world: Callable[..., World]) -> None:
    full = {"name": "full", "patience": 1, "rewardSaturation": {"maxShareAtBound": 0.9}}
    run = world(guards=[full], training={"batchSize": 18}).start()
    assert run.wait() == 78, run.tail()
    message = run.message()
    assert message.failure == "Config"
    assert message.reason == "NotSupportedYet"
    assert "guards[full].rewardSaturation: no reward has a clip" in message.message
    assert (
        "training.batchSize 18 / ppo.miniBatches 2 must be a multiple of 1 ranks x microBatchSize 4" in message.message
    )


@pytest.mark.slow
def test_a_plan_that_cannot_be_read_is_a_config_error(world: Callable[..., World]) -> None:
    made = world()
    run = made.start(environment={"RLHF_WORKERS": "two"})
    assert run.wait() == 78, run.tail()
    assert "RLHF_WORKERS" in run.message().message or "invalid literal" in run.message().message


def test_a_world_size_that_is_not_the_plans_is_a_config_error(world: Callable[..., World]) -> None:
    run = world(compute={"workers": 2}, ppo={"miniBatches": 1}).start(processes=1)
    assert run.wait() == 78, run.tail()
    assert "asks for 2 ranks (2 workers of 1), but 1 were started" in run.message().message


def test_a_model_with_code_of_its_own_is_refused(world: Callable[..., World]) -> None:
    made = world()
    config = made.base / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    run = made.start()
    assert run.wait() == 78, run.tail()
    assert "auto_map" in run.message().message


def test_a_guard_stops_the_run_names_its_figure_and_keeps_the_checkpoint(world: Callable[..., World]) -> None:
    made = world(
        training={"steps": 100},
        checkpoints={"everySteps": 1},
        guards=[{"name": "kl", "patience": 2, "kl": {"max": 0.05}}],
    )
    run = made.start()
    assert run.wait() == 80, run.tail()
    message = run.message()
    assert message.failure == "Guard"
    assert message.reason == "GuardStopped"
    assert "nats per response" in message.message
    assert "limit 0.05" in message.message
    stopped = run.events("step")[-1]["step"] + 1
    assert f"at step {stopped}" in message.message
    assert message.checkpoint is not None
    assert message.checkpoint.step == stopped - 2, "the last from before the limit was passed, not the newest"


@pytest.mark.slow
def test_a_guards_action_can_be_changed_while_the_run_goes_on(world: Callable[..., World]) -> None:
    made = world(training={"steps": 6}, guards=[{"name": "kl", "patience": 1, "kl": {"max": 1e-6}}])
    (made.root / "settings.json").write_text('{"guardActions": {"kl": "Warn"}}')
    run = made.start()
    assert run.wait() == 0, run.tail()
    warned = [event for event in run.events("step") if event["warnings"]]
    assert warned
    assert "guard kl" in warned[0]["warnings"][0]


def test_a_killed_rank_is_a_crash_and_its_peer_only_lost_a_peer(
    world: Callable[..., World], pods: Callable[..., list[Run]]
) -> None:
    first, second = pods(world(compute={"workers": 2}, **LONG))
    first.until_step(2)
    os.kill(second.ranks()[0], signal.SIGSEGV)
    assert second.wait() == 70, second.tail()
    assert second.message().failure == "Crash"
    assert "signal 11" in second.message().message
    assert first.wait() == 82, first.tail()
    assert first.message().failure == "PeerLost"


def test_progress_and_metrics_are_served_while_it_trains(world: Callable[..., World]) -> None:
    run = world(**LONG).start()
    run.until_step(2)
    with urllib.request.urlopen(f"http://127.0.0.1:{run.progress_port}/progress", timeout=10) as answer:
        progress = Progress.model_validate_json(answer.read())
    assert progress.step >= 2
    assert progress.steps == 2000
    assert progress.attempt == 1
    assert progress.kl is not None
    assert progress.reward is not None
    assert progress.eta_seconds is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{run.progress_port}/metrics", timeout=10) as answer:
        assert b'rlhf_score{scorer="sorry"}' in answer.read()
    run.kill()


def test_a_stopped_attempt_that_wakes_up_later_gives_way_and_overwrites_nothing(world: Callable[..., World]) -> None:
    made = world(training={"steps": 400}, checkpoints={"everySteps": 400})
    old = made.start(attempt=1)
    old.until_step(2)
    (rank,) = old.ranks()
    os.kill(rank, signal.SIGSTOP)
    new = made.start(attempt=2)
    new.until_step(2)
    before = snapshot(made.workspace, but="attempts/2")
    os.kill(rank, signal.SIGCONT)
    assert old.wait(120) == 83, old.tail()
    assert old.message().failure == "Superseded"
    assert "attempt 2 owns" in old.message().message
    after = snapshot(made.workspace, but="attempts/2")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # Only what it was in the middle of, below its own folder.
    own = ("attempts/1/rewards/", "attempts/1/metrics.jsonl")
    assert all(name.startswith(own) for name in changed), changed
    assert new.process.poll() is None
    new.kill()


def snapshot(root: Path, but: str) -> dict[str, bytes]:
    return {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (name := path.relative_to(root).as_posix()).startswith(but)
    }


def test_a_rank_that_hangs_is_found_and_every_ranks_stacks_are_kept(
    world: Callable[..., World], pods: Callable[..., list[Run]]
) -> None:
    made = world(compute={"workers": 2}, timeouts={"progressSeconds": 45}, **LONG)
    first, second = pods(made)
    first.until_step(2)
    (hung,) = second.ranks()
    os.kill(hung, signal.SIGSTOP)
    started = time.monotonic()
    assert first.wait() == 84, first.tail()
    assert second.wait() == 84, second.tail()
    assert time.monotonic() - started < 200
    for run in (first, second):
        assert run.message().failure == "Stalled"
        assert "no new step" in run.message().message
    stacks = made.workspace / "attempts" / "1" / "stacks"
    for rank in (0, 1):
        text = (stacks / f"rank-{rank}.txt").read_text()
        assert "most recent call first" in text
        assert "loop.py" in text


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_not_trained_over(world: Callable[..., World]) -> None:
    made = world(training={"steps": 40}, checkpoints={"everySteps": 2})
    run = made.start()
    run.until_step(5)
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 75, run.tail()
    newest = sorted((made.workspace / "attempts" / "1" / "checkpoints").iterdir())[-1]
    file = newest / "engine" / "policy.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again = made.start(attempt=2)
    assert again.wait() == 78, again.tail()
    assert again.message().reason == "CheckpointCorrupt"
    assert "engine/policy.pt" in again.message().message


def test_a_pod_that_waits_for_others_leaves_when_it_is_asked_to(world: Callable[..., World]) -> None:
    run = world(compute={"workers": 2}).start(index=0, workers=2)
    # The store that the others would join is up: from here on the launcher waits inside torch.
    run.until(lambda _: answers(run.port))
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(60) == 75, run.tail()
    assert run.message().failure == "Interrupted"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_pod_zero_that_cannot_be_found_is_named(world: Callable[..., World]) -> None:
    made = world(compute={"workers": 2}, timeouts={"startupSeconds": 3})
    run = made.start(index=1, workers=2, environment={"RLHF_MASTER_ADDR": "nobody.invalid"})
    assert run.wait(60) == 82, run.tail()
    assert "nobody.invalid could not be resolved" in run.message().message
