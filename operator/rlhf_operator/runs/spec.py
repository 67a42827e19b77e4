"""What the machinery of a run has to know of a spec. Each kind makes one from its own; nothing here knows a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rlhf_operator.api.data import ConfigMapSource, DataRef
from rlhf_operator.api.graders import Grader
from rlhf_operator.api.lifecycle import Budget, Timeouts
from rlhf_operator.api.plan import LiveSettings, RunPlan
from rlhf_operator.api.pods import Compute, Output, Storage
from rlhf_operator.common.intents import OperatorDefaults

from .checks import Check, passed
from .views import References

Problem = tuple[str, str]
"""Reason and words of a reference that can't be used."""


def no_problems(found: References) -> Iterable[Problem]:
    """Return nothing: everything that is needed was checked by name."""
    return ()


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run as its kind wants it."""

    compute: Compute
    storage: Storage
    output: Output
    timeouts: Timeouts
    micro_batch_size: int
    max_restarts: int
    settings: LiveSettings
    """What pods find at SETTINGS_PATH."""
    settings_name: str
    """The ConfigMap that holds it."""
    plan_type: type[RunPlan]
    resolve: Callable[[References, OperatorDefaults], RunPlan]
    """The plan of a spec whose references were found. Raises ValueError."""
    suspend: bool = False
    budget: Budget | None = None
    supported: Check = field(default_factory=passed)
    inputs: tuple[tuple[str, DataRef], ...] = ()
    """(field, reference) of everything the trainer reads."""
    code: tuple[tuple[str, ConfigMapSource], ...] = ()
    """(scorer, source) of every Python grader whose code is in a ConfigMap."""
    graders: tuple[tuple[str, Grader], ...] = ()
    """(field, grader) of everything that judges by a rule: some are behind an address, some need a token."""
    reward_models: tuple[str, ...] = ()
    """RewardModels that it scores with."""
    secrets: tuple[tuple[str, str], ...] = ()
    """(Secret, key) that must exist beyond those of `compute` and `output`."""
    problems: Callable[[References], Iterable[Problem]] = no_problems
    """What else keeps a plan from being made."""
    measures_first: bool = False
    """Whether something is done before the first step that shows no steps: only the watchdog can tell its stall."""
    many_plans: bool = False
    """Whether the owner may have Jobs of other plans too: then Jobs say by a label which plan's they are."""
    product: str = "trained policy"
    """What a run makes, in words."""
    publish_again: str = "the same job, created again, goes on from its workspace"
    """What the user does when publishing failed."""
    micro_batch_field: str = "spec.training.microBatchSize"
    again: str = "create a new job"
    """What the user does when the plan can't be run as written."""
    judged_by: str = ""
    """Names the settings that the publish pod judges by: it gets a ConfigMap and a Job of its own for each."""
