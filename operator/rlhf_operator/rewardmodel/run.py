"""A RewardModel's spec as the machinery of runs reads it. Pure."""

from __future__ import annotations

from functools import partial

from rlhf_operator.api.plan import LiveSettings
from rlhf_operator.api.rewardmodel import RewardModelSpec
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.common.names import Owner
from rlhf_operator.runs.children import settings_name
from rlhf_operator.runs.spec import RunSpec

from .gate import gate_name, gate_of
from .plan import resolve
from .supported import check_supported, data_refs


def run_spec(owner: Owner, spec: RewardModelSpec) -> RunSpec:
    """Return the run that makes the version that a spec asks for."""
    train = spec.source.train
    return RunSpec(
        compute=spec.compute,
        storage=spec.storage,
        output=spec.output,
        timeouts=spec.timeouts,
        micro_batch_size=train.training.micro_batch_size if train is not None else 1,
        max_restarts=spec.max_restarts,
        settings=LiveSettings(reward_gate=gate_of(spec)),
        settings_name=settings_name(owner.name),
        plan_type=RewardPlan,
        resolve=partial(resolve, owner, spec),
        suspend=spec.suspend,
        supported=check_supported(spec),
        inputs=tuple(data_refs(spec)),
        code=tuple(
            (each.name, each.grader.python.config_map)
            for each in spec.source.graders or ()
            if each.grader.python is not None and each.grader.python.config_map is not None
        ),
        graders=tuple((f"source.graders[{each.name}]", each.grader) for each in spec.source.graders or ()),
        # Data is checked and, with folds, several models are trained: only the watchdog sees what has no steps.
        measures_first=True,
        many_plans=True,
        product="version",
        publish_again="change the spec, maxRestarts for one, and it is tried again from its workspace",
        again="change the spec: that begins another run",
        micro_batch_field="spec.source.train.training.microBatchSize",
        judged_by=gate_name(spec),
    )
