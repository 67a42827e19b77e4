"""What a step of GRPO and RLOO does: figures in the product's units, rows that leave, and TRL's numbers kept exact."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.groups.trainer import GroupBridge
from rlhf_trainer.progress import Reporter
from trainer.core.closed_form import GroupTask, OnePrompt, TableScorers

Figures = dict[str, Any]


def steps_of(task: GroupTask, capsys: pytest.CaptureFixture[str]) -> list[Figures]:
    """Train, and return each step's figures as they are told."""
    capsys.readouterr()
    task.train(Reporter(task.plan.digest(), 1, task.plan.training.steps or 0))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "step"]


@dataclass
class Losses:
    """What TRL's loss was given, micro-batch by micro-batch, and the log-probabilities it computed."""

    seen: list[dict[str, torch.Tensor]]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Losses:
    found = Losses([])
    whole = GroupBridge._compute_loss

    def keep(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = whole(self, model, inputs)
        tensors = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        found.seen.append({**tensors, "logprobs": self._last_pass[0].detach(), "loss": loss.detach()})
        return loss

    monkeypatch.setattr(GroupBridge, "_compute_loss", keep)
    return found


@pytest.mark.parametrize(("algorithm", "iterations"), [("grpo", 2), ("rloo", 1)])
def test_kl_is_in_nats_per_response_and_the_ratio_is_one_on_the_first_pass(
    tmp_path: Path, losses: Losses, capsys: pytest.CaptureFixture[str], algorithm: str, iterations: int
) -> None:
    changes: dict[str, Any] = {algorithm: {"groupSize": 8, "iterations": iterations}}
    task = GroupTask(
        tmp_path, algorithm, 3, 0.2, training={"steps": 3, "batchSize": 32}, optimizer={"warmupSteps": 0}, **changes
    )
    task.micro = 8
    # Prompts of several lengths: padding must move no position.
    task.prompts = [OnePrompt([1]), OnePrompt([3, 2, 5], number=2), OnePrompt([4, 1], number=3)]
    steps = steps_of(task, capsys)
    per_step = 4 * iterations
    assert len(losses.seen) == 3 * per_step
    for number, figures in enumerate(steps):
        first = losses.seen[number * per_step : number * per_step + 4]
        kl = entropy = tokens = rows = 0.0
        for part in first:
            mask = part["completion_mask"]
            torch.testing.assert_close(part["logprobs"] * mask, part["old_per_token_logps"] * mask, atol=1e-6, rtol=0)
            torch.testing.assert_close(
                part["logprobs"] * mask, part["sampling_per_token_logps"] * mask, atol=2e-5, rtol=0
            )
            kl += float(((part["logprobs"] - part["ref_per_token_logps"]) * mask).sum())
            tokens += float(mask.sum())
            rows += len(mask)
        assert rows == 32
        assert figures["kl"] == pytest.approx(kl / rows, abs=1e-5)
        assert figures["klPerToken"] == pytest.approx(kl / tokens, abs=1e-5)
        assert figures["responseTokens"] == pytest.approx(tokens / rows)
        assert figures["logProbDrift"] < 1e-5
        assert figures["optimizerSteps"] == iterations
        assert entropy <= figures["entropy"] <= 2.1
    assert abs(steps[0]["kl"]) < 1e-4
    assert steps[2]["kl"] > 1e-3, "the policy has moved, and the figure says so"


class Gaps(TableScorers):
    """A scorer that has no score for every third response."""

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """Score by table, with gaps."""
        scores = super().score(name, prompts, responses, rows)
        return [None if place % 3 == 0 else score for place, score in enumerate(scores)]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_missing_score_leaves_its_group_and_the_baseline_is_over_those_that_stay(
    tmp_path: Path, losses: Losses, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    task = GroupTask(
        tmp_path, algorithm, 3, 0.0, training={"steps": 1, "batchSize": 16}, **{algorithm: {"groupSize": 8}}
    )
    task.scorers = Gaps(task.table)
    figures = steps_of(task, capsys)[0]
    (made,) = losses.seen
    left = made["tool_mask"].sum(dim=1) == 0
    assert int(left.sum()) == 6
    assert figures["maskedShare"] == pytest.approx(6 / 16)
    assert figures["scoreMissing/table"] == pytest.approx(6 / 16)
    assert made["advantages"][left].abs().max() == 0
    # Rewards from the sampled texts; the micro-batch is shuffled, so advantages are compared as a sorted list.
    texts = [tuple(int(token) - 1 for token in row if token > 0) for row in made["completion_ids"]]
    rewards = [task.table[text] for text in texts]
    groups: dict[float, list[float]] = {}
    staying = [
        (reward, float(advantage))
        for reward, advantage, gone in zip(rewards, made["advantages"], left, strict=True)
        if not gone
    ]
    for reward, advantage in staying:
        # GRPO: reward - mean of the stayers; RLOO: reward - mean of the other stayers. Each gives the group's sum.
        count = 5
        base = (
            reward - advantage if algorithm == "grpo" else (reward - advantage) * (count - 1) / count + reward / count
        )
        groups.setdefault(round(base, 4), []).append(reward)
    assert sorted(len(members) for members in groups.values()) == [5, 5]
    for mean, members in groups.items():
        assert sum(members) / 5 == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_masked_truncated_responses_are_in_no_term_of_the_loss(
    tmp_path: Path, losses: Losses, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    task = GroupTask(
        tmp_path,
        algorithm,
        3,
        0.5,
        training={"steps": 2, "batchSize": 16},
        generation={"truncation": {"mode": "Mask"}},
    )
    figures = steps_of(task, capsys)
    made = losses.seen[-1]
    cut = made["completion_mask"].sum(dim=1) == 4
    cut &= made["completion_ids"][:, 3] != 0
    assert 0 < int(cut.sum()) < 16
    assert torch.equal(made["tool_mask"].sum(dim=1) == 0, cut)
    assert figures[-1]["maskedShare"] == pytest.approx(float(cut.double().mean()))
    assert int(made["num_items_in_batch"]) == int(made["tool_mask"].sum())


def test_kl_is_measured_for_a_guard_where_no_reference_is_optimised_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = GroupTask(tmp_path / "plain", "grpo", 3, 0.0, training={"steps": 2, "batchSize": 16})
    assert "kl" not in steps_of(plain, capsys)[-1], "no reference, no figure; never 0"
    guarded = GroupTask(
        tmp_path / "guarded",
        "grpo",
        3,
        0.0,
        training={"steps": 2, "batchSize": 16},
        optimizer={"warmupSteps": 0, "learningRate": 1e-2},
        guards=[{"name": "far", "patience": 1, "kl": {"max": 1000}}],
    )
    steps = steps_of(guarded, capsys)
    assert abs(steps[0]["kl"]) < 1e-4
    assert steps[1]["kl"] > 1e-3


class Silent(TableScorers):
    """A scorer that never answers."""

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """No score at all."""
        return [None] * len(responses)


def test_a_run_without_scores_ends_by_the_scorers_name(tmp_path: Path) -> None:
    task = GroupTask(tmp_path, "rloo", 3, 0.1, training={"steps": 5, "batchSize": 16})
    task.scorers = Silent(task.table)
    with pytest.raises(ConfigError, match="scorer table gave no score") as caught:
        task.train()
    assert caught.value.reason == "NothingToLearn"


@pytest.mark.parametrize(
    ("algorithm", "loss"), [("grpo", "DrGRPO"), ("grpo", "GRPO"), ("grpo", "DAPO"), ("rloo", None)]
)
def test_micro_batches_change_no_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, loss: str | None
) -> None:
    gradients: list[dict[str, torch.Tensor]] = []
    measured = GroupBridge._get_grad_norm

    def keep(self: Any, model: Any, grad_norm: Any = None) -> Any:
        gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
        return measured(self, model, grad_norm)

    monkeypatch.setattr(GroupBridge, "_get_grad_norm", keep)
    for micro in (16, 4):
        settings = {"groupSize": 4, "kl": {"coefficient": 0.1}} | ({} if loss is None else {"loss": loss})
        task = GroupTask(
            tmp_path / str(micro),
            algorithm,
            5,
            0.1,
            training={"steps": 1, "batchSize": 16},
            # Never clipped.
            optimizer={"maxGradNorm": 1000},
            **{algorithm: settings},
        )
        task.micro = micro
        task.train()
    whole, parts = gradients
    assert max(float(value.abs().max()) for value in whole.values()) > 1e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-5)
