"""From scores to one reward per response."""

import math

import pytest
import torch

from rlhf_operator.api.algorithms import Clip, Normalize, Reward
from rlhf_operator.api.generation import Truncation, TruncationMode
from rlhf_trainer.rewards import Combined, Moments, RewardMix, judge_truncated, score_figures, scores_tensor

NAN = float("nan")


def combine(*rewards: Reward, **scores: list[float | None]) -> Combined:
    return RewardMix(rewards).combine({name: scores_tensor(values) for name, values in scores.items()})


def test_rewards_are_clipped_then_weighted_then_summed() -> None:
    found = combine(
        Reward(scorer="a", weight=2.0, clip=Clip(min=-1, max=1)),
        Reward(scorer="b", weight=-0.5),
        a=[3.0, 0.25, -9.0],
        b=[1.0, 2.0, 0.0],
    )
    assert found.rewards.tolist() == [2 - 0.5, 0.5 - 1, -2.0]
    assert found.figures["rewardClipped/a"] == pytest.approx(2 / 3)
    assert found.figures["rewardClipped/b"] == 0


@pytest.mark.parametrize(
    ("scores", "clip", "share"),
    [
        ([0.0, 1.0, 1.0, 1.0], Clip(min=0, max=1), 0.75),
        ([0.0, 1.0], Clip(min=0, max=1), 0.5),
        ([-5.0, -4.0, 0.5], Clip(min=-3), 2 / 3),
        ([None, 9.0], Clip(max=3), 1.0),
        ([None], Clip(max=3), 0.0),
        ([0.2, 0.8], Clip(min=0, max=1), 0.0),
    ],
)
def test_the_share_at_a_bound_is_that_of_the_bound_which_more_scores_have_reached(
    scores: list[float | None], clip: Clip, share: float
) -> None:
    assert combine(Reward(scorer="a", clip=clip), a=scores).figures["shareAtBound/a"] == pytest.approx(share)


def test_without_a_clip_there_is_no_bound() -> None:
    assert "shareAtBound/a" not in combine(Reward(scorer="a"), a=[1.0]).figures


def test_a_missing_score_takes_the_row_out_and_is_never_zero() -> None:
    found = combine(Reward(scorer="a"), Reward(scorer="b"), a=[1.0, None, 3.0], b=[1.0, 1.0, None])
    assert found.present.tolist() == [True, False, False]
    assert found.rewards.tolist() == [2.0, 0.0, 0.0]
    assert score_figures({"a": scores_tensor([1.0, None, 3.0])})["score/a"] == 2.0
    assert score_figures({"a": scores_tensor([1.0, None, 3.0])})["scoreMissing/a"] == pytest.approx(1 / 3)


def test_a_scorer_that_says_nothing_has_no_mean() -> None:
    assert score_figures({"a": scores_tensor([None, None])}) == {"scoreMissing/a": 1.0}
    found = combine(Reward(scorer="a"), a=[None, None])
    assert "rewardPart/a" not in found.figures


def test_the_reference_scale_is_fixed_before_the_first_step_and_stays() -> None:
    mix = RewardMix([Reward(scorer="a", normalize=Normalize.REFERENCE)])
    assert mix.needs_reference
    mix.set_reference({"a": scores_tensor([1.0, 3.0, None])})
    assert not mix.needs_reference
    for _ in range(2):
        assert mix.combine({"a": scores_tensor([2.0, 4.0])}).rewards.tolist() == [0.0, 2.0]
    again = RewardMix([Reward(scorer="a", normalize=Normalize.REFERENCE)])
    again.state = type(mix.state).model_validate_json(mix.state.model_dump_json(by_alias=True))
    assert again.combine({"a": scores_tensor([4.0])}).rewards.tolist() == [2.0]


def test_running_moments_are_those_of_all_scores_so_far() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(7).double() * 3 + 5 for _ in range(5)]
    moments = Moments()
    for part in parts:
        moments = moments.after(part)
    everything = torch.cat(parts)
    assert moments.mean == pytest.approx(float(everything.mean()))
    assert moments.deviation == pytest.approx(float(everything.std(unbiased=False)))


def test_a_scorer_that_says_the_same_of_every_text_is_not_blown_up() -> None:
    mix = RewardMix([Reward(scorer="a", normalize=Normalize.RUNNING)])
    rewards = mix.combine({"a": scores_tensor([1.0, 1.0, 1.0])}).rewards
    assert rewards.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("mode", "rewards", "stays"),
    [
        (TruncationMode.SCORE, [1.0, 2.0], [True, True]),
        (TruncationMode.PENALTY, [1.0, 1.5], [True, True]),
        (TruncationMode.MASK, [1.0, 2.0], [True, False]),
    ],
)
def test_a_response_that_did_not_end_is_treated_as_the_plan_says(
    mode: TruncationMode, rewards: list[float], stays: list[bool]
) -> None:
    combined = Combined(torch.tensor([1.0, 2.0]).double(), torch.tensor([True, True]), {})
    found, kept = judge_truncated(combined, torch.tensor([True, False]), Truncation(mode=mode, penalty=0.5))
    assert found.tolist() == rewards
    assert kept.tolist() == stays


def test_a_missing_row_is_not_punished_for_being_cut() -> None:
    combined = Combined(torch.tensor([0.0]).double(), torch.tensor([False]), {})
    found, kept = judge_truncated(combined, torch.tensor([False]), Truncation(mode=TruncationMode.PENALTY))
    assert found.tolist() == [0.0]
    assert kept.tolist() == [False]


def test_a_missing_score_is_not_a_number_and_nothing_else_is() -> None:
    assert [math.isnan(value) for value in scores_tensor([0.0, None]).tolist()] == [False, True]
