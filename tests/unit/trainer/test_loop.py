"""The loop around an algorithm that trains nothing: what it does with figures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rlhf_operator.api.guards import KLGuard, NonFiniteGuard
from rlhf_operator.api.plan import PlanCheckpoints, PlanGuard
from rlhf_trainer.checkpoint import CheckpointStore, last_good
from rlhf_trainer.distributed import Group
from rlhf_trainer.errors import GuardStopped
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.guards import Guards
from rlhf_trainer.loop import Loop
from rlhf_trainer.signals import StopFlag

PLAN = "sha256:" + "a" * 64
FINITE = PlanGuard(name="finite", patience=1, non_finite=NonFiniteGuard())


class Told:
    """An algorithm whose KL is told beforehand."""

    def __init__(self, kl: Sequence[float]) -> None:
        self._kl = kl

    def step(self, step: int) -> dict[str, float]:
        """One figure."""
        return {"kl": self._kl[step - 1]}

    def save(self, folder: Path) -> None:
        """Nothing to keep."""

    def load(self, folder: Path) -> None:
        """Nothing to load."""


def loop(root: Path, kl: Sequence[float], action: str, guard: PlanGuard = FINITE, keep: int = 2) -> Loop:
    workspace = Workspace(root / "job", 1)
    workspace.claim()
    settings = root / "settings.json"
    settings.write_text(json.dumps({"guardActions": {guard.name: action}}))
    group = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    return Loop(
        group=group,
        workspace=workspace,
        store=CheckpointStore(workspace, group, PLAN, "step", keep),
        algorithm=Told(kl),
        steps=len(kl),
        checkpoints=PlanCheckpoints(every_steps=1, keep=keep, grace_period_seconds=60),
        guards=Guards([guard], settings),
        stop=StopFlag(),
        beat=lambda: None,
        reporter=None,
        save_policy=lambda folder: None,
    )


@pytest.mark.parametrize("action", ["Off", "Warn"])
def test_a_last_step_that_is_no_number_has_no_result_even_when_its_guard_may_not_stop(
    tmp_path: Path, action: str
) -> None:
    made = loop(tmp_path, [0.1, math.nan], action)
    with pytest.raises(GuardStopped, match="kl of the last step") as caught:
        made.run(0)
    assert "step 1 is kept" in caught.value.message


def test_an_earlier_step_that_is_no_number_is_the_guards_business(tmp_path: Path) -> None:
    made = loop(tmp_path, [math.nan, 0.2], "Warn")
    assert made.run(0)["kl"] == 0.2
    assert made.last is not None
    assert made.last.step == 2


KL = PlanGuard(name="kl", patience=2, kl=KLGuard(max=5))


def test_a_stop_keeps_the_last_checkpoint_from_before_the_limit_was_passed(tmp_path: Path) -> None:
    made = loop(tmp_path, [0.1, 6.0, 4.0, 6.0, 7.0, 0.0], "Stop", KL, keep=1)
    with pytest.raises(GuardStopped) as caught:
        made.run(0)
    assert "at step 5 (2 in a row since step 4, patience 2)" in caught.value.message
    assert caught.value.message.endswith("the checkpoint of step 3, the last good one, is kept")
    kept = made.store.complete()
    assert [each.step for each in kept] == [3, 4]
    assert [each.step for each in last_good(kept)] == [3]


def test_a_guard_that_only_warns_makes_no_checkpoint_a_bad_one(tmp_path: Path) -> None:
    made = loop(tmp_path, [0.1, 6.0, 7.0], "Warn", KL, keep=1)
    made.run(0)
    assert [each.step for each in made.store.complete()] == [3]


def test_what_guards_remember_is_in_the_checkpoint(tmp_path: Path) -> None:
    made = loop(tmp_path, [0.1, 6.0], "Warn", KL)
    made.run(0)
    again = loop(tmp_path, [0.1, 6.0, 7.0], "Stop", KL)
    with pytest.raises(GuardStopped, match="2 in a row since step 2"):
        again.run(again.resume())
