"""What a step of GRPO or RLOO learns from: responses, their scores and rewards. The models are the trainer's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.algorithms.batch import response_figures
from rlhf_trainer.algorithms.judged import EmptyBatches, reference_places, reward_figures
from rlhf_trainer.distributed import Group
from rlhf_trainer.files import write_durably
from rlhf_trainer.policy.generation import MICRO_BATCHES_AT_ONCE, Responses, SamplingSettings, sample, texts_of
from rlhf_trainer.rewards import RewardMix, RewardState, judge_truncated
from rlhf_trainer.sampling import DataOrder, row_keys
from rlhf_trainer.scoring import DataRow, StepScorer

STATE_FILE = "groups.json"


class GroupState(Model):
    """What is remembered beside weights and optimizer; part of every checkpoint."""

    rewards: RewardState


@dataclass
class Making:
    """One rank's share of a step's batch while it is made."""

    step: int
    rows: list[DataRow]
    """The row of each response: a prompt comes as often as its group has responses here."""
    responses: Responses | None = None
    stays: Tensor | None = None
    """[rows] bool: which of this rank's responses are learned from."""
    figures: dict[str, float] = field(default_factory=dict)

    def lengths(self) -> Tensor:
        """Tokens of each response, with the one that ended it. [rows] int64."""
        assert self.responses is not None
        return self.responses.mask.sum(dim=1).long()


class GroupRollouts:
    """Makes batches on one rank. Every method is called by all ranks together."""

    def __init__(
        self,
        plan: TrainingPlan,
        group_size: int,
        *,
        group: Group,
        prompts: Sequence[DataRow],
        tokenizer: Any,
        sampling: SamplingSettings,
        scorer: StepScorer,
        micro_batch_size: int,
        beat: Callable[[], None],
    ) -> None:
        assert plan.training.steps is not None
        self.group = group
        self.prompts_per_step = plan.training.batch_size // group_size
        self._plan = plan
        self._group_size = group_size
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._scorer = scorer
        self._rows_at_once = micro_batch_size * MICRO_BATCHES_AT_ONCE
        self._beat = beat
        self._order = DataOrder(len(prompts), plan.training.seed, "prompts")
        self._mix = RewardMix(plan.rewards)
        self._empty = EmptyBatches(plan, plan.training.steps)

    @property
    def needs_reference(self) -> bool:
        """Whether `fix_scale` must be called before the first step."""
        return self._mix.needs_reference

    def fix_scale(self, model: Any) -> None:
        """Fix the scale of rewards that are normalised by the reference, which the policy is before its first step."""
        places, chosen = reference_places(len(self._prompts), self.group)
        rows = [self._prompts[row] for row in chosen]
        responses = self._draw(model, [row.prompt_ids for row in rows], self._keys("reference", 0, places))
        self._mix.set_reference(self._score(0, rows, responses))

    def begin(self, step: int, places: Sequence[int]) -> Making:
        """Start a step. places: of each response of this rank, the place of its prompt in the order of all prompts."""
        return Making(step, [self._prompts[self._order.at(place)] for place in places])

    def sample(self, model: Any, making: Making) -> list[list[int]]:
        """Draw this rank's responses; returns their tokens, with the one that ended each."""
        started = time.monotonic()
        batch = self._plan.training.batch_size
        places = [(making.step - 1) * batch + place for place in self.group.share(batch)]
        prompts = [row.prompt_ids for row in making.rows]
        making.responses = self._draw(model, prompts, self._keys("rollout", making.step, places))
        making.figures["secondsGenerate"] = time.monotonic() - started
        rows = zip(making.responses.tokens.tolist(), making.lengths().tolist(), strict=True)
        return [tokens[:length] for tokens, length in rows]

    def rewards(self, making: Making) -> Tensor:
        """Score what was drawn. Returns the rewards of all ranks' responses: [batch] float64, NaN where one leaves."""
        assert making.responses is not None
        started = time.monotonic()
        scores = self._score(making.step, making.rows, making.responses)
        combined = self._mix.combine(scores)
        tokens, mask, finished = (
            self.group.gather_rows(part, "the gathering of responses").cpu()
            for part in (making.responses.tokens, making.responses.mask, making.responses.finished)
        )
        rewards, stays = judge_truncated(combined, finished, self._plan.generation.truncation)
        self._empty.see(making.step, bool(stays.any()), scores)
        share = self.group.share(len(stays))
        making.stays = stays[share.start : share.stop]
        optimised = torch.where(stays, rewards, torch.nan)
        making.figures |= {
            **response_figures(tokens, mask, finished),
            **reward_figures(combined, rewards, stays, scores),
            "zeroVarianceGroups": self._without_variance(optimised),
            "secondsScore": time.monotonic() - started,
        }
        return optimised

    def _without_variance(self, rewards: Tensor) -> float:
        """Share of groups that teach nothing, for their responses are worth the same or at most one is left."""
        groups = rewards.view(-1, self._group_size)
        first = torch.nanmean(groups, dim=1, keepdim=True)
        moves = ((groups - first).abs() > 1e-8).any(dim=1)
        return 1.0 - float(moves.double().mean())

    def _draw(self, model: Any, prompts: Sequence[Sequence[int]], keys: Tensor) -> Responses:
        return sample(model, prompts, keys, self._sampling, self._tokenizer, self._rows_at_once, self._beat)

    def _score(self, step: int, rows: Sequence[DataRow], responses: Responses) -> dict[str, Tensor]:
        return self._scorer.score(step, rows, texts_of(responses, self._tokenizer, self._sampling.stop))

    def _keys(self, stream: str, update: int, places: Sequence[int]) -> Tensor:
        rows = torch.tensor(list(places), dtype=torch.int64, device=self.group.device)
        return row_keys(self._plan.training.seed, stream, update, rows)

    def save(self, folder: Path) -> None:
        """Write what is remembered. Rank 0 only."""
        state = GroupState(rewards=self._mix.state)
        write_durably(folder / STATE_FILE, state.model_dump_json(by_alias=True).encode())

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self._mix.state = GroupState.model_validate_json((folder / STATE_FILE).read_bytes()).rewards
