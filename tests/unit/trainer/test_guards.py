"""Guards name the figure that passed its limit, count in a row, and read their actions again at every step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.algorithms import Algorithm, Clip, Normalize, Reward
from rlhf_operator.api.guards import Guard, GuardAction, KLGuard, NonFiniteGuard, RewardHackingGuard, unmeasured
from rlhf_operator.api.plan import PlanGuard
from rlhf_trainer.guards import Guards, GuardState

KL = PlanGuard(name="kl", patience=2, kl=KLGuard(max=5))
FINITE = PlanGuard(name="finite", patience=1, non_finite=NonFiniteGuard())


def guard(patience: int = 1, **block: Any) -> PlanGuard:
    return PlanGuard.model_validate({"name": "g", "patience": patience, **block})


def message(made: PlanGuard, *steps: Mapping[str, float]) -> str | None:
    """What a guard says at the last of the steps, which are numbered from 2."""
    guards, words = Guards([made], None), None
    for step, figures in enumerate(steps, start=2):
        found = guards.check(step, figures)
        words = found[0].message if found else None
    return words


LIMITS: list[tuple[PlanGuard, dict[str, float], str | None]] = [
    (guard(kl={"max": 5}), {"kl": 7.25}, "KL is 7.25 nats per response, 2.25 above the limit 5"),
    (guard(kl={"max": 5}), {"kl": 5.0}, None),
    (
        guard(slowConvergence={"minKL": 0.01}),
        {"kl": 0.004},
        "KL is 0.004 nats per response, 0.006 below the limit 0.01",
    ),
    (guard(slowConvergence={"minKL": 0.01}), {"kl": 0.01}, None),
    (guard(entropy={"min": 0.5}), {"entropy": 0.125}, "entropy is 0.125 nats per token, 0.375 below the limit 0.5"),
    (guard(entropy={"min": 0.5}), {"entropy": 0.5}, None),
    (guard(logProbDrift={"max": 1}), {"logProbDrift": 1.5}, "is 1.5 nats per token, 0.5 above the limit 1"),
    (guard(logProbDrift={"max": 1}), {"logProbDrift": 1.0}, None),
    (guard(allMasked={}), {"maskedShare": 1.0}, "every response of the batch was left out"),
    (guard(allMasked={}), {"maskedShare": 0.99}, None),
    (
        guard(rewardSaturation={"maxShareAtBound": 0.9}),
        {"shareAtBound/a": 0.2, "shareAtBound/b": 0.95},
        "shareAtBound/b is 0.95, 0.05 above the limit 0.9",
    ),
    (guard(rewardSaturation={"maxShareAtBound": 0.9}), {"shareAtBound/a": 0.9}, None),
    (guard(rewardHacking={"minDistinctN": 0.2}), {"distinct2": 0.15}, "distinct2 is 0.15, 0.05 below the limit 0.2"),
    (guard(rewardHacking={"maxLengthRatio": 2}), {"lengthRatio": 2.5}, "lengthRatio is 2.5, 0.5 above the limit 2"),
    (guard(nonFinite={}), {"kl": float("nan"), "x": float("inf"), "y": 1.0}, "kl, x not finite"),
]


@pytest.mark.parametrize(("made", "figures", "words"), LIMITS)
def test_a_passed_limit_is_told_with_figure_value_limit_and_step(
    made: PlanGuard, figures: dict[str, float], words: str | None
) -> None:
    found = message(made, figures)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found
        assert found.startswith("guard g: ")
        assert found.endswith(", at step 2 (1 in a row since step 2, patience 1)")


def test_every_kind_of_guard_has_a_limit_here() -> None:
    assert {made.kind for made, _, _ in LIMITS} == set(Guard.one_of)


def test_a_limit_counts_only_after_as_many_steps_in_a_row_as_patience_says() -> None:
    guards = Guards([KL], None)
    assert not guards.check(1, {"kl": 6.0})
    assert guards.crossed == ["kl"]
    assert not guards.check(2, {"kl": 4.0})
    assert guards.crossed == []
    assert not guards.check(3, {"kl": 6.0})
    (found,) = guards.check(4, {"kl": 7.25})
    assert found.action is GuardAction.STOP
    assert "at step 4 (2 in a row since step 3, patience 2)" in found.message


def test_a_policy_that_has_not_been_updated_yet_is_not_slow() -> None:
    guards = Guards([guard(slowConvergence={"minKL": 0.01})], None)
    assert not guards.check(1, {"kl": 0.0})
    assert guards.check(2, {"kl": 0.0})


HACKING = guard(rewardHacking={"monitor": "gold", "drop": 0.1})


@pytest.mark.parametrize(
    ("steps", "stops"),
    [
        ([(0.5, 0.0), (0.35, 1.0)], True),
        ([(0.5, 0.0), (0.45, 1.0)], False),
        # Both fall: something is wrong, but nobody is cheating.
        ([(0.5, 0.0), (0.3, -1.0)], False),
        ([(0.2, 0.0), (0.5, 1.0), (0.3, 2.0)], True),
        # The reward was higher when the monitor was best.
        ([(0.2, 0.0), (0.5, 3.0), (0.3, 2.0)], False),
        ([(0.2, 0.0)], False),
    ],
)
def test_hacking_is_a_monitor_below_its_best_while_the_reward_is_above_what_it_was_then(
    steps: list[tuple[float, float]], stops: bool
) -> None:
    found = message(HACKING, *({"score/gold": gold, "reward": reward} for gold, reward in steps))
    assert (found is not None) is stops


def test_hacking_says_what_fell_from_where_while_what_rose() -> None:
    found = message(HACKING, {"score/gold": 0.5, "reward": -2.0}, {"score/gold": 0.125, "reward": 3.0})
    assert found is not None
    assert "score/gold is 0.125, 0.375 below its best 0.5 of step 2 (limit: a drop of 0.1)" in found
    assert "while the reward rose from -2 to 3, at step 3" in found


def test_the_reference_length_is_that_of_the_first_step() -> None:
    guards = Guards([], None)
    assert guards.derive({"responseTokens": 8.0}) == {"lengthRatio": 1.0}
    assert guards.derive({"responseTokens": 20.0}) == {"lengthRatio": 2.5}
    assert guards.derive({"loss": 1.0}) == {}


figures = st.fixed_dictionaries(
    {"kl": st.floats(0, 10), "score/gold": st.floats(-1, 1), "reward": st.floats(-1, 1)},
    optional={"responseTokens": st.floats(1, 100)},
)


@given(st.lists(figures, min_size=2, max_size=12), st.data())
def test_guards_that_go_on_from_a_checkpoint_say_what_they_would_have_said(
    steps: list[dict[str, float]], data: st.DataObject
) -> None:
    def told(guards: Guards, first: int, part: list[dict[str, float]]) -> list[list[str]]:
        found = []
        for step, each in enumerate(part, start=first):
            known = {**each, **guards.derive(each)}
            found.append([violation.message for violation in guards.check(step, known)] + [str(known)])
        return found

    made = [KL, HACKING.model_copy(update={"name": "hacking", "patience": 2})]
    at = data.draw(st.integers(1, len(steps) - 1))
    whole = told(Guards(made, None), 1, steps)
    before, after = Guards(made, None), Guards(made, None)
    told(before, 1, steps[:at])
    after.state = GuardState.model_validate_json(before.state.model_dump_json(by_alias=True))
    assert told(after, at + 1, steps[at:]) == whole[at:]


def test_a_guard_without_its_figure_judges_nothing_says_so_and_forgets_nothing() -> None:
    guards = Guards([KL], None)
    guards.check(1, {"kl": 6.0})
    assert guards.check(2, {"reward": 1.0}) == []
    assert guards.notes == ["guard kl judges nothing: step 2 has no figure kl"]
    assert guards.check(3, {"kl": 6.0})
    assert guards.notes == []


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
    assert guards.crossed == [], "a guard that only warns makes no checkpoint a bad one"
    settings.write_text(json.dumps({"guardActions": {"finite": "Off"}}))
    assert guards.check(3, bad) == []


def test_settings_that_cannot_be_read_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"guardActions": {"finite": "Warn"}}))
    guards = Guards([FINITE], settings)
    guards.check(1, {"kl": 0.0})
    settings.write_text("{")
    assert guards.check(2, {"kl": float("nan")})[0].action is GuardAction.WARN
    assert "settings.json" in guards.notes[0]


def test_settings_that_are_gone_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"guardActions": {"finite": "Warn"}}))
    guards = Guards([FINITE], settings)
    guards.check(1, {"kl": 0.0})
    settings.unlink()
    assert guards.check(2, {"kl": float("nan")})[0].action is GuardAction.WARN
    assert "is gone" in guards.notes[0]


PLAIN, CLIPPED = Reward(scorer="a"), Reward(scorer="a", clip=Clip(max=1))
RUNNING = Reward(scorer="a", normalize=Normalize.RUNNING)
GOLD = RewardHackingGuard(monitor="gold")


@pytest.mark.parametrize(
    ("kind", "hacking", "algorithm", "rewards", "words"),
    [
        ("kl", None, Algorithm.PPO, [PLAIN], None),
        ("non_finite", None, Algorithm.DPO, [], None),
        ("entropy", None, Algorithm.SFT, [], "SFT generates no responses"),
        ("reward_hacking", GOLD, Algorithm.KTO, [], "KTO generates no responses"),
        ("reward_saturation", None, Algorithm.GRPO, [PLAIN], "no reward has a clip"),
        ("reward_saturation", None, Algorithm.RLOO, [PLAIN, CLIPPED], None),
        ("reward_hacking", GOLD, Algorithm.PPO, [PLAIN], None),
        ("reward_hacking", GOLD, Algorithm.PPO, [RUNNING], "normalised by a running mean"),
        ("reward_hacking", RewardHackingGuard(min_distinct_n=0.1), Algorithm.PPO, [RUNNING], None),
    ],
)
def test_a_guard_that_no_figure_can_wake_is_refused(
    kind: str, hacking: RewardHackingGuard | None, algorithm: Algorithm, rewards: list[Reward], words: str | None
) -> None:
    found = unmeasured(kind, hacking, algorithm, rewards)
    assert (found is None) if words is None else (found is not None and words in found)
