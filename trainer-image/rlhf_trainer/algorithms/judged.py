"""What judged responses amount to: their figures, and the end of a run that learns nothing. Training is elsewhere."""

import math
from collections.abc import Mapping

from torch import Tensor

from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.distributed import Group
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.rewards import Combined, present_mean, score_figures

REFERENCE_SAMPLES = 256
# A judge may be away for a moment; a run that goes on without one trains on nothing and would call that a success.
MAX_EMPTY_BATCHES = 3


def reference_places(rows: int, group: Group) -> tuple[range, list[int]]:
    """This rank's share of the samples that fix the scale of rewards: their numbers, and the row of each."""
    places = group.share(math.ceil(REFERENCE_SAMPLES / group.world_size) * group.world_size)
    return places, [place % rows for place in places]


def reward_figures(
    combined: Combined, rewards: Tensor, stays: Tensor, scores: Mapping[str, Tensor]
) -> dict[str, float]:
    """What is said of a batch's rewards. rewards, stays: [batch], of all ranks, as `judge_truncated` gives them."""
    return {
        **present_mean("reward", rewards[combined.present]),
        "maskedShare": 1.0 - float(stays.double().mean()),
        **combined.figures,
        **score_figures(scores),
    }


class EmptyBatches:
    """Ends the run when batch after batch holds nothing to learn from."""

    def __init__(self, plan: TrainingPlan, steps: int) -> None:
        self._plan = plan
        self._most = min(MAX_EMPTY_BATCHES, steps)
        self._count = 0

    def see(self, step: int, learns: bool, scores: Mapping[str, Tensor]) -> None:
        """Count a batch. Raises ConfigError with what is missing."""
        self._count = 0 if learns else self._count + 1
        if self._count < self._most:
            return
        raise ConfigError(
            f"no response of the last {self._count} batches (up to step {step}) can be learned from: "
            f"{self._why(scores)}",
            reason="NothingToLearn",
        )

    def _why(self, scores: Mapping[str, Tensor]) -> str:
        silent = [reward.scorer for reward in self._plan.rewards if bool(scores[reward.scorer].isnan().all())]
        if silent:
            return f"scorer {', '.join(silent)} gave no score for any response: look at its grader and its time-out"
        return (
            "every response lacked a score or was left out by generation.truncation.mode "
            f"{self._plan.generation.truncation.mode.value}: raise generation.maxResponseLength or use another mode"
        )
