"""An RLHFJob's spec as the machinery of runs reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rlhf_operator.api.data import ConfigMapSource, DataRef
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.names import Owner
from rlhf_operator.runs.children import settings_name
from rlhf_operator.runs.spec import RunSpec

from . import rewardmodels
from .plan import live_settings, resolve
from .supported import check_supported


def run_spec(owner: Owner, spec: RLHFJobSpec) -> RunSpec:
    """Return the run that a job asks for."""
    return RunSpec(
        compute=spec.compute,
        storage=spec.storage,
        output=spec.output,
        timeouts=spec.timeouts,
        micro_batch_size=spec.training.micro_batch_size,
        max_restarts=spec.max_restarts,
        settings=live_settings(spec),
        settings_name=settings_name(owner.name),
        plan_type=TrainingPlan,
        resolve=partial(resolve, owner, spec),
        suspend=spec.suspend,
        budget=spec.budget,
        supported=check_supported(spec),
        inputs=tuple(data_refs(spec)),
        code=tuple(grader_files(spec)),
        graders=tuple((f"scorers[{each.name}]", each.grader) for each in spec.scorers if each.grader is not None),
        problems=partial(rewardmodels.problems, spec),
        reward_models=tuple(sorted({ref.name for ref in rewardmodels.refs(spec)})),
        measures_first=spec.warm_start is not None or spec.evaluation is not None,
    )


def data_refs(spec: RLHFJobSpec) -> Iterator[tuple[str, DataRef]]:
    """Yield (field, reference) of every input of the trainer."""
    yield "baseModel", spec.base_model
    yield "dataset", spec.dataset
    if spec.parent_artifact is not None:
        yield "parentArtifact", spec.parent_artifact
    if spec.warm_start is not None:
        yield "warmStart.dataset", spec.warm_start.dataset
    if spec.evaluation is not None:
        yield "evaluation.dataset", spec.evaluation.dataset
        for suite in spec.evaluation.suites:
            yield f"evaluation.suites[{suite.name}].dataset", suite.dataset


def grader_files(spec: RLHFJobSpec) -> Iterator[tuple[str, ConfigMapSource]]:
    """Yield (scorer, source) of every Python grader whose code is in a ConfigMap."""
    for scorer in spec.scorers:
        grader = scorer.grader
        if grader is not None and grader.python is not None and grader.python.config_map is not None:
            yield scorer.name, grader.python.config_map
