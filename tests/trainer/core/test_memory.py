"""The memory estimate against what a run takes, and the command that prints it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_trainer.__main__ import main
from rlhf_trainer.cgroup import memory_limit_bytes
from rlhf_trainer.memory.check import estimate_of

from .tiny import World, make_base

WIDTH, LAYERS, VOCABULARY = 512, 10, 14
WITHIN = 0.15


def test_the_command_prints_the_parts_and_refuses_too_much(
    world: Callable[..., World], capsys: pytest.CaptureFixture[str]
) -> None:
    made = world()
    plan = made.root / "plan.json"
    plan.write_text(made.plan.canonical())
    arguments = ["estimate", "--plan", str(plan), "--micro-batch-size", "4"]
    assert main([*arguments, "--device-memory", "80Gi"]) == 0
    printed = capsys.readouterr().out
    for part in ("process", "policy optimizer", "critic gradients", "reference weights", "activations", "peak"):
        assert part in printed
    assert main([*arguments, "--device-memory", "64Mi"]) == 78
    assert "more memory" in capsys.readouterr().err


def highest(pid: int) -> int:
    """The most resident memory that a process has had, in bytes; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(text.split("VmHWM:")[1].split()[0]) << 10 if "VmHWM:" in text else 0


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "processes"), [(0, 1), (2, 2), (3, 2)])
def test_the_peak_of_a_run_is_what_was_estimated(world: Callable[..., World], stage: int, processes: int) -> None:
    """On a model large enough for its parts to matter: its weights, and not the libraries, are most of the peak."""
    made = world(
        training={"steps": 2, "batchSize": 16},
        compute={"procsPerWorker": processes, "zeroStage": stage},
        generation={"maxPromptLength": 8, "maxResponseLength": 40},
    )
    make_base(made.base, width=WIDTH, layers=LAYERS)
    assert memory_limit_bytes() is None or memory_limit_bytes() > 8 << 30  # type: ignore[operator]
    run = made.start(processes=processes, micro=4)
    most: dict[int, int] = {}
    deadline = time.monotonic() + 900
    while run.process.poll() is None and time.monotonic() < deadline:
        for pid in run.ranks():
            most[pid] = max(most.get(pid, 0), highest(pid))
        time.sleep(0.2)
    assert run.wait() == 0, run.tail()
    _, peak = estimate_of(made.plan, 4).peak()
    assert abs(peak / max(most.values()) - 1.0) <= WITHIN, f"estimated {peak}, measured {sorted(most.values())}"
