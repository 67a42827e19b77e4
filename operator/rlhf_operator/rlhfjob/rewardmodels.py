"""RewardModels as an RLHFJob uses them: which version, by address or by files. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_operator.api.algorithms import CriticInit
from rlhf_operator.api.graders import RewardModelRef
from rlhf_operator.api.plan import PlanRewardModel
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.rewardmodels import path_of, version_of, why_not
from rlhf_operator.runs.spec import Problem
from rlhf_operator.runs.views import References


def refs(spec: RLHFJobSpec) -> list[RewardModelRef]:
    """Return the RewardModels that a job names, each once."""
    named = {(each.name, each.version): each for scorer in spec.scorers if (each := scorer.reward_model_ref)}
    return [named[key] for key in sorted(named, key=str)]


def problems(spec: RLHFJobSpec, found: References) -> Iterator[Problem]:
    """Yield why a RewardModel can't be used."""
    for ref in refs(spec):
        words = why_not(ref, found.reward_models.get(ref.name))
        if words is not None:
            yield Reason.REWARD_MODEL_NOT_READY, words


def starts_from_reward_model(spec: RLHFJobSpec) -> bool:
    """Whether PPO's critic starts from a reward model, and so needs its files."""
    return spec.ppo is not None and spec.ppo.critic.init_from is CriticInit.REWARD_MODEL


def use(ref: RewardModelRef, found: References, *, files: bool = False) -> PlanRewardModel:
    """Return the version that a run uses from its first attempt to its last. Raises ValueError.

    By its address where the RewardModel is served, so that its memory is shared; else, or where its files are needed
    anyway, in process.
    """
    view = found.reward_models.get(ref.name)
    words, version = why_not(ref, view), version_of(ref, view) if view is not None else None
    if view is None or version is None or words is not None:
        raise ValueError(words or f"RewardModel {ref.name} has no version")
    if view.serves and not files:
        return PlanRewardModel(name=ref.name, version=version.digest, url=version.url)
    return PlanRewardModel(name=ref.name, version=version.digest, path=path_of(version))
