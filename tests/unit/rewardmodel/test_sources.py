"""A RewardModel whose model and data come from outside: another plan fetches anew, what is operational does not."""

from __future__ import annotations

from typing import Any

from rlhf_operator.api.plan import RunPlan
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_operator.rewardmodel.plan import resolve, still_wanted
from rlhf_operator.rewardmodel.supported import unsupported_fields
from rlhf_operator.runs import children
from rlhf_operator.runs.parsing import frozen_plan_view
from rlhf_operator.runs.views import FrozenPlan

from .factory import DEFAULTS, FOUND, OWNER, spec_of

BASE = {"pvc": None, "hf": {"repo": "org/encoder"}, "secretRef": {"name": "hub"}}
ROWS = {"pvc": None, "configMap": None, "s3": {"uri": "s3://data/pairs.parquet"}}


def outside(**changes: Any) -> dict[str, Any]:
    return {"source": {"train": {"baseModel": BASE, "dataset": ROWS, **changes}}}


def frozen(**changes: Any) -> FrozenPlan:
    plan = resolve(OWNER, spec_of(**changes), FOUND, DEFAULTS)
    return frozen_plan_view(children.plan_config_map(OWNER, children.freeze(OWNER, plan)), RewardPlan)


def paths(plan: RunPlan | None) -> set[str]:
    assert plan is not None
    return {each.path for _, each in plan.inputs() if each.fetch is not None}


def test_sources_outside_are_supported_and_kept_as_long_as_the_plan_is_wanted() -> None:
    assert list(unsupported_fields(spec_of(**outside()))) == []
    plan = frozen(**outside())
    assert still_wanted(OWNER, spec_of(**outside()), plan)
    assert still_wanted(OWNER, spec_of(**outside(), timeouts={"startup": "2h"}), plan)
    assert not still_wanted(OWNER, spec_of(**outside(training={"epochs": 7})), plan)


def test_another_plan_fetches_into_another_folder() -> None:
    assert not paths(frozen(**outside()).plan) & paths(frozen(**outside(training={"epochs": 7})).plan)
