"""What one reconcile knows of a run, typed and frozen: filled in by observe.py, read by policies. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import ValidationError

from rlhf_operator.api.jobstatus import Attempt, CheckpointStatus, CostStatus
from rlhf_operator.api.jobstatus import Progress as ProgressStatus
from rlhf_operator.api.meta import Condition
from rlhf_operator.api.plan import RunPlan
from rlhf_operator.api.result import Progress, TerminationMessage
from rlhf_operator.api.rewardmodel import RewardModelVersion
from rlhf_operator.common.conditions import cut
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import Owner

TRAINER = "trainer"
"""Name of our container. Attempts are judged by it alone, whatever else runs in the pod."""

OVERDUE_AFTER = timedelta(seconds=60)
"""A pod that outlives the end of its grace period by this much is on a node that no longer answers."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a Job."""

    name: str
    uid: str
    index: int | None
    """Completion index; 0 is rank 0's pod."""
    phase: str
    node: str | None = None
    ip: str | None = None
    reason: str = ""
    """The pod's own reason: Evicted, NodeLost, …"""
    message: str = ""
    disruption: str | None = None
    """Reason of a True DisruptionTarget condition, for example EvictionByEvictionAPI."""
    waiting: str | None = None
    """What keeps it from starting, in the scheduler's or the kubelet's words."""
    started: bool = False
    """Whether the container `trainer` has started at least once."""
    exit_code: int | None = None
    """Of the container `trainer`; None while it has not ended."""
    scheduled_at: datetime | None = None
    """Since when its node holds what it asked for."""
    ended_at: datetime | None = None
    """When the container `trainer` ended."""
    exit_reason: str = ""
    """The kubelet's reason for its end: Completed, Error, OOMKilled."""
    termination_message: str = ""
    busy: bool = False
    """Whether any container of it, ours or a sidecar, still runs. The phase lags behind by a moment."""
    deleting_since: datetime | None = None
    """deletionTimestamp: the end of the grace period that the deletion gave."""

    @property
    def ended(self) -> bool:
        """Whether nothing of ours runs in it any more. A sidecar of the user's may still run."""
        return self.exit_code is not None or self.phase in ("Succeeded", "Failed")

    def overdue(self, now: datetime) -> bool:
        """Whether it should have been gone for a while: its node does not answer."""
        return self.deleting_since is not None and now > self.deleting_since + OVERDUE_AFTER


@dataclass(frozen=True, slots=True)
class JobView:
    """One batch Job of ours with its pods."""

    name: str
    uid: str
    role: str
    """train, publish or collect."""
    attempt: int
    created_at: datetime
    started_at: datetime | None = None
    """When the Job controller last started it; None while it is suspended."""
    suspended: bool = False
    deleting: bool = False
    complete: bool = False
    failed: bool = False
    ended_at: datetime | None = None
    """When the Job controller saw its end, or suspended it."""
    failed_reason: str = ""
    failed_message: str = ""
    pods: tuple[PodView, ...] = ()
    workers: int = 1
    micro_batch_size: int | None = None
    queue_name: str | None = None
    plan: str = ""
    """The plan label, where an owner has many plans."""
    judged_by: str = ""
    """The gate label of a publish Job."""
    verdict: TerminationMessage | None = None
    """What the pod of index 0 said at its end, when it could be read."""

    @property
    def finished(self) -> bool:
        """Whether the Job controller is done with it: every pod is terminal or gone."""
        return self.complete or self.failed

    @property
    def lingers(self) -> bool:
        """Whether something keeps it from finishing: pods that run on, a queue. Ended pods finish by themselves."""
        ending = bool(self.pods) and all(pod.ended and not pod.busy for pod in self.pods)
        return not self.finished and not self.deleting and not ending

    @property
    def root_pod(self) -> PodView | None:
        """The newest pod of index 0."""
        return next((pod for pod in reversed(self.pods) if pod.index in (0, None)), None)

    @property
    def held_from(self) -> datetime | None:
        """Since when a node holds resources for it: its first pod's, not that of a former life before a preemption."""
        if self.started_at is None or self.suspended:
            return None
        scheduled = [pod.scheduled_at for pod in self.pods if pod.scheduled_at is not None]
        return max(self.started_at, min(scheduled, default=self.started_at))

    def held_until(self, now: datetime) -> datetime:
        """Return when its last trainer ended, as far as anybody has said so; `now` while one may still run."""
        said = [pod.ended_at for pod in self.pods if pod.ended_at is not None]
        if self.ended_at is not None:
            # Pods that were deleted say nothing any more.
            said = said if len(said) == self.workers else [*said, self.ended_at]
        elif len(said) < max(self.workers, len(self.pods)):
            return now
        # A node's clock may be wrong.
        return min(max(said), now)

    def over(self, now: datetime) -> bool:
        """Whether no trainer of this attempt runs any more.

        Also when the Job itself can't finish: a sidecar keeps a pod running, or a node does not answer.
        """
        if self.finished:
            return True
        if self.suspended or not self.pods:
            return False
        if all(pod.ended or pod.overdue(now) for pod in self.pods):
            indexes = {pod.index for pod in self.pods}
            return len(indexes) == self.workers or any(pod.overdue(now) for pod in self.pods)
        return False


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """Kueue's Workload of an attempt."""

    name: str
    evicted: str | None = None
    """Reason of a True Evicted condition, for example Preempted."""
    message: str = ""
    """Why it waits, in Kueue's words."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A PersistentVolumeClaim."""

    name: str
    access_modes: tuple[str, ...]
    phase: str = "Pending"
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class RewardModelView:
    """A RewardModel as its users see it."""

    name: str
    serves: bool
    """Whether its versions answer at an address; else they are files."""
    current: str | None
    """Digest of the version in use."""
    versions: tuple[RewardModelVersion, ...] = ()
    message: str = ""
    """What it says of itself."""


@dataclass(frozen=True, slots=True)
class References:
    """What the spec refers to, as the API server has it now. A missing entry does not exist."""

    claims: Mapping[str, ClaimView] = field(default_factory=dict)
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    """ConfigMap → key → content."""
    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Secret → its keys. Values are never read into the process's memory longer than the answer lives."""
    reward_models: Mapping[str, RewardModelView] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    """Reference (`ConfigMap gold`) → why it could not be read: Unknown, never missing."""
    unchecked: frozenset[str] = frozenset()
    """Secrets that the operator may not read by its own rights; pods that need one wait for it themselves."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's words about a Job that a dry run offered it."""

    message: str
    permanent: bool = True
    """Whether it refuses the Job as such, and not for the moment (quota, permission, policy)."""


@dataclass(frozen=True, slots=True)
class FrozenPlan:
    """The plan as its ConfigMap holds it: made once, then read.

    It is parsed only where it is needed: most looks at a job need no more than the digest.
    """

    config_map: str
    digest: str
    text: str
    plan_type: type[RunPlan]
    known: RunPlan | None = field(default=None, compare=False)
    """The plan that the text was just made from."""

    def read(self) -> RunPlan | str:
        """Return the plan, or why this operator can't read it."""
        if self.known is not None:
            return self.known
        try:
            return self.plan_type.model_validate_json(self.text)
        except ValidationError as error:
            return cut(str(error), 300)

    @property
    def plan(self) -> RunPlan | None:
        """The plan; None when this operator can't read it."""
        plan = self.read()
        return None if isinstance(plan, str) else plan


class Record(Protocol):
    """What status knows of a run."""

    @property
    def conditions(self) -> Sequence[Condition]:
        """The conditions of the object; a running attempt is told of by `Running`."""
        ...

    @property
    def plan_digest(self) -> str | None:
        """Digest of the plan in force."""
        ...

    @property
    def attempts(self) -> Sequence[Attempt]:
        """The newest attempts."""
        ...

    @property
    def restarts(self) -> int | None:
        """Attempts that count against maxRestarts."""
        ...

    @property
    def cost(self) -> CostStatus | None:
        """What the run has used."""
        ...

    @property
    def progress(self) -> ProgressStatus | None:
        """The last reading."""
        ...

    @property
    def checkpoint(self) -> CheckpointStatus | None:
        """The newest complete checkpoint."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run and everything around it, at one moment."""

    owner: Owner
    generation: int
    status: Record
    defaults: OperatorDefaults
    attempts: tuple[JobView, ...] = ()
    """Training Jobs, oldest attempt first."""
    numbers_from: int = 0
    """A number that no attempt may have any more, nor one below it."""
    publish: JobView | None = None
    collect: JobView | None = None
    plan: FrozenPlan | None = None
    references: References | None = None
    """None: nothing is about to start, so nothing was looked up."""
    claim: ClaimView | None = None
    """Our own storage claim."""
    service_uid: str | None = None
    workload: WorkloadView | None = None
    progress: Progress | None = None
    pod_refusal: str | None = None
    """The Job controller's words about a pod that it can't create, when pods are missing."""
    refusal: Refusal | None = None
    """Of the rendered Job, when a dry run was refused."""

    @property
    def live(self) -> JobView | None:
        """The newest attempt's Job, if one exists."""
        return self.attempts[-1] if self.attempts else None
