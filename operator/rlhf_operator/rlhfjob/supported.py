"""What this version can run. A spec that asks for more is refused by field before a pod starts."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_operator.api.algorithms import Algorithm, DPOLoss
from rlhf_operator.api.base import to_camel
from rlhf_operator.api.data import Format
from rlhf_operator.api.generation import RolloutEngine, RolloutSettings, Truncation
from rlhf_operator.api.guards import unmeasured
from rlhf_operator.api.pods import Offload
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.checks import Check, failed, passed

from .rewardmodels import starts_from_reward_model

OFFLINE = (Algorithm.SFT, Algorithm.DPO, Algorithm.KTO)
"""Algorithms that learn from given responses."""
LORA = (Algorithm.PPO, *OFFLINE)
"""Algorithms that can train an adapter."""


def check_supported(spec: RLHFJobSpec) -> Check:
    """Return a permanent failure that names every field this version can't run yet, or that no run could obey."""
    fields = sorted(set(unsupported_fields(spec)))
    if fields:
        words = f"this version of the operator can't run {', '.join(fields)} yet: create an RLHFJob without it"
        return failed(Reason.NOT_SUPPORTED_YET, words, permanent=True)
    blind = list(blind_guards(spec))
    if blind:
        return failed(Reason.INVALID_SPEC, f"{'; '.join(blind)}; then create the RLHFJob again", permanent=True)
    return passed()


def unsupported_fields(spec: RLHFJobSpec) -> Iterator[str]:
    """Yield the path of each field that is set and not supported yet."""
    if spec.rollout.engine != RolloutEngine.TRANSFORMERS:
        yield "rollout.engine"
    if spec.lora is not None and spec.algorithm not in LORA:
        yield f"lora with {spec.algorithm.value}"
    models = {scorer.name for scorer in spec.scorers if scorer.reward_model_ref is not None}
    if starts_from_reward_model(spec) and not any(reward.scorer in models for reward in spec.rewards):
        yield "ppo.critic.initFrom RewardModel without a reward from a rewardModelRef"
    generating = next((field for field in ("ppo", "grpo", "rloo") if getattr(spec, field) is not None), None)
    if generating is not None and spec.dataset.format is Format.DEMONSTRATIONS:
        yield f"{generating} with dataset.format Demonstrations"
    if spec.compute.offload is not Offload.NONE and spec.compute.gpus_per_worker == 0:
        yield "compute.offload without GPUs"
    if spec.algorithm in OFFLINE:
        yield from _offline_fields(spec)
    yield from _warm_start_fields(spec)


def blind_guards(spec: RLHFJobSpec) -> Iterator[str]:
    """Yield each guard that this run has no figure for, and what to do."""
    for guard in spec.guards:
        kind = next(kind for kind in guard.one_of if getattr(guard, kind) is not None)
        why = unmeasured(kind, guard.reward_hacking, spec.algorithm, spec.rewards)
        if why is not None:
            yield f"guards[{guard.name}].{to_camel(kind)}: {why}"


def _offline_fields(spec: RLHFJobSpec) -> Iterator[str]:
    """What SFT, DPO and KTO have no use for. A value that is the default can't be told from none."""
    if spec.monitors and spec.evaluation is None:
        yield f"monitors without evaluation in {spec.algorithm.value}"
    if spec.generation.truncation != Truncation():
        yield f"generation.truncation in {spec.algorithm.value}"
    if spec.rollout != RolloutSettings():
        yield f"rollout in {spec.algorithm.value}"
    if spec.dpo is not None and spec.dpo.label_smoothing > 0 and spec.dpo.loss is not DPOLoss.SIGMOID:
        yield f"dpo.labelSmoothing with loss {spec.dpo.loss.value}"
    if spec.kto is not None and spec.training.batch_size < 2:
        yield "training.batchSize 1 in KTO"


def _warm_start_fields(spec: RLHFJobSpec) -> Iterator[str]:
    if spec.warm_start is None:
        return
    training = spec.warm_start.training
    if training.epochs is None:
        yield "warmStart.training.steps"
    # The default can't be told from a 1 that was written: a warm start runs with the job's own micro-batch.
    if training.micro_batch_size not in (1, spec.training.micro_batch_size):
        yield "warmStart.training.microBatchSize other than training.microBatchSize"
