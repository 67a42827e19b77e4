"""What one reconcile knows of a RewardModel: its run, its versions' pods, who uses them. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rlhf_operator.api.jobstatus import Attempt, CheckpointStatus, CostStatus, RunStatus
from rlhf_operator.api.jobstatus import Progress as ProgressStatus
from rlhf_operator.api.meta import Condition
from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelStatus
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.common.resources import Resource
from rlhf_operator.runs.views import JobView, Run

NAME_DIGITS = 10
"""Hex digits of a version in names: its identity is the whole digest."""


def tag(digest: str) -> str:
    """Return a version as names and labels have it."""
    return digest.removeprefix("sha256:")[:NAME_DIGITS]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What status knows of the run: implements `runs.views.Record`."""

    run: RunStatus
    conditions: Sequence[Condition] = ()
    restarts: int | None = None

    @property
    def plan_digest(self) -> str | None:
        """Digest of the plan in force."""
        return self.run.plan_digest

    @property
    def attempts(self) -> Sequence[Attempt]:
        """The newest attempts."""
        return self.run.attempts

    @property
    def cost(self) -> CostStatus | None:
        """What the run has used."""
        return self.run.cost

    @property
    def progress(self) -> ProgressStatus | None:
        """The last reading."""
        return self.run.progress

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        """The newest complete checkpoint."""
        return self.run.checkpoint


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """The pods of one version."""

    name: str
    tag: str
    replicas: int = 1
    """As asked for now; an autoscaler may have changed it."""
    available: int = 0
    """Pods that answer."""
    settled: bool = False
    """Whether the Deployment controller has seen the newest template and every pod is of it."""
    late: bool = False
    """Whether its progress deadline has passed."""
    waiting: str = ""
    """What keeps its pods from being ready, in the scheduler's or the kubelet's words."""

    @property
    def ready(self) -> bool:
        """Whether every pod answers, and with the newest template."""
        return self.settled and 0 < self.replicas <= self.available


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The stable Service: where it leads is the truth about what is served."""

    name: str
    uid: str
    tag: str
    """The version that it selects."""


@dataclass(frozen=True, slots=True)
class Lead:
    """A Service that has a ready endpoint, and the version whose pods it selected when it got it."""

    service: str
    tag: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A version's pods as they were rendered once: re-applied as they are, whichever operator looks at them."""

    name: str
    key: str
    """Version and the user's serving fields."""
    deployment: Manifest


@dataclass(frozen=True, slots=True)
class Child:
    """A child that is deleted when nothing needs it."""

    resource: Resource
    name: str
    uid: str
    tag: str = ""
    """The version it belongs to, if it belongs to one."""
    plan: str = ""
    """The plan that it holds, shortened as in labels."""
    judged_by: str = ""
    """The limits that it holds, by their name."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """An object that is not finished and uses a version."""

    kind: str
    name: str
    version: str
    """Digest."""
    by_url: bool = True
    """Whether it asks the version's pods; else it reads the files."""
    waits: bool = False
    """Whether it has not begun to: then only a version that passed is brought up for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One RewardModel and everything around it, at one moment."""

    owner: Owner
    generation: int
    spec: RewardModelSpec | None
    status: RewardModelStatus
    defaults: OperatorDefaults
    run: Run
    """The run of the plan that the spec asks for. Without a plan: the one that begins."""
    spec_problem: str = ""
    """Why the spec can't be read; then `spec` is None."""
    raw_status: Mapping[str, object] = field(default_factory=dict)
    former_jobs: tuple[JobView, ...] = ()
    """Jobs of other plans, or that judge by other limits."""
    former_plans: tuple[Child, ...] = ()
    """Plans whose run was given up before the spec changed: what they refer to may have been mended since."""
    deployments: Mapping[str, DeploymentView] = field(default_factory=dict)
    """By tag."""
    stable: ServiceView | None = None
    leads: frozenset[Lead] = frozenset()
    """Which Services lead to a pod that is ready."""
    rendered: Mapping[str, Rendered] = field(default_factory=dict)
    """By key."""
    offered: Mapping[str, str] = field(default_factory=dict)
    """Renderings with a template of the user's, by key, that a dry run was asked about: why they are refused, or ''."""
    children: tuple[Child, ...] = ()
    """Everything that belongs to one version, or to a former plan or gate."""
    keda: bool = False
    """Whether the cluster has ScaledObjects."""
    consumers: tuple[Consumer, ...] = ()

    def deployment(self, digest: str) -> DeploymentView | None:
        """The pods of a version."""
        return self.deployments.get(tag(digest))

    def reaches(self, service: str, digest: str) -> bool:
        """Whether a Service leads to a ready pod of a version."""
        return Lead(service, tag(digest)) in self.leads


def fresh(status: RewardModelStatus, plan_digest: str | None, generation: int) -> Recorded:
    """Return what is known of the run of a plan: nothing when another plan's is recorded.

    A run that was given up is taken up again when the spec has changed since.
    """
    run = status.run
    if run is None or run.plan_digest != plan_digest:
        return Recorded(RunStatus())
    retried = run.failed is not None and run.generation != generation
    return Recorded(run, status.conditions, 0 if retried else run.restarts)


def age(since: datetime | None, now: datetime) -> float:
    """Return the seconds since a moment; for one that never was, endless."""
    return float("inf") if since is None else (now - since).total_seconds()
