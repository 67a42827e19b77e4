"""Guards count in a row, and their actions are read again at every step."""

import json
from pathlib import Path

from rlhf_operator.api.guards import GuardAction, KLGuard, NonFiniteGuard
from rlhf_operator.api.plan import PlanGuard
from rlhf_trainer.guards import Guards

KL = PlanGuard(name="kl", patience=2, kl=KLGuard(max=5))
FINITE = PlanGuard(name="finite", patience=1, non_finite=NonFiniteGuard())


def test_a_limit_counts_only_after_as_many_steps_in_a_row_as_patience_says() -> None:
    guards = Guards([KL], None)
    assert not guards.check(1, {"kl": 6.0})
    assert not guards.check(2, {"kl": 4.0})
    assert not guards.check(3, {"kl": 6.0})
    (found,) = guards.check(4, {"kl": 7.25})
    assert found.action is GuardAction.STOP
    assert "7.25" in found.message
    assert "limit 5" in found.message
    assert "step 4" in found.message


def test_a_figure_that_is_no_number_is_seen_by_finite_and_not_by_kl() -> None:
    found = Guards([KL, FINITE], None).check(3, {"kl": float("nan"), "policyLoss": float("inf"), "reward": 1.0})
    assert [violation.guard for violation in found] == ["finite"]
    assert "kl, policyLoss" in found[0].message


def test_actions_change_while_the_run_goes_on(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    guards = Guards([FINITE], settings)
    bad = {"kl": float("nan")}
    assert guards.check(1, bad)[0].action is GuardAction.STOP
    settings.write_text(json.dumps({"guardActions": {"finite": "Warn"}}))
    assert guards.check(2, bad)[0].action is GuardAction.WARN
    settings.write_text(json.dumps({"guardActions": {"finite": "Off"}}))
    assert guards.check(3, bad) == []


def test_settings_that_cannot_be_read_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"guardActions": {"finite": "Warn"}}))
    guards = Guards([FINITE], settings)
    guards.check(1, {"kl": 0.0})
    settings.write_text("{")
    assert guards.check(2, {"kl": float("nan")})[0].action is GuardAction.WARN
    assert guards.settings_error is not None
    assert "settings.json" in guards.settings_error


def test_settings_that_are_gone_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"guardActions": {"finite": "Warn"}}))
    guards = Guards([FINITE], settings)
    guards.check(1, {"kl": 0.0})
    settings.unlink()
    assert guards.check(2, {"kl": float("nan")})[0].action is GuardAction.WARN
    assert guards.settings_error is not None
    assert "is gone" in guards.settings_error
