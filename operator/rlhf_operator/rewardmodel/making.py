"""How the version that the spec asks for comes to be: its run, and the gate's verdict on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rlhf_operator.api.rewardmodel import RewardModelSpec, RewardModelVersion
from rlhf_operator.common.hashes import short
from rlhf_operator.common.intents import Delete
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import CONFIGMAPS, SERVICES
from rlhf_operator.runs import children as runs
from rlhf_operator.runs.decide import decide
from rlhf_operator.runs.decision import Decision, Phase
from rlhf_operator.runs.ledger import ledger_of
from rlhf_operator.runs.running import delete
from rlhf_operator.runs.views import OVERDUE_AFTER

from .gate import gate_name, limits_of
from .run import run_spec
from .versions import FAILED, brought_forward, judged, made, recorded
from .views import Observed


@dataclass(frozen=True, slots=True)
class Making:
    """Where the wanted version stands."""

    versions: list[RewardModelVersion]
    """The one last made or gone back to first."""
    version: RewardModelVersion | None = None
    """The wanted one, once it was judged by the limits in force."""
    decision: Decision | None = None
    """What its run does; None when there is nothing to run."""
    given_up: bool = False
    """Whether the run has failed and waits for another spec."""
    delete: tuple[Delete, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it was judged, and failed."""
        return self.version is not None and self.version.gate == FAILED


def make(observed: Observed, spec: RewardModelSpec, now: datetime) -> Making:
    """Return what is to be done for the wanted version."""
    plan, versions = observed.run.plan, list(observed.status.versions)
    former = _former_jobs(observed, now)
    digest = judged(versions, plan.digest, limits_of(spec)) if plan is not None else None
    if digest is not None:
        versions = brought_forward(versions, digest)
        return Making(versions, versions[0], delete=(*former.delete, *_left_over(observed, spec, versions)))
    if observed.former_jobs or observed.former_plans:
        return Making(versions, decision=former)
    run = observed.status.run
    if run is not None and run.failed is not None and run.generation == observed.generation:
        return Making(versions, given_up=True)
    decision = decide(observed.run, run_spec(observed.owner, spec), now)
    if decision.artifact is None:
        return Making(versions, decision=decision, given_up=decision.phase is Phase.FAILED)
    verdict = observed.run.publish.verdict if observed.run.publish is not None else None
    version = made(spec, decision.artifact, verdict, now.replace(microsecond=0))
    return Making(recorded(versions, version), version, decision)


def _former_jobs(observed: Observed, now: datetime) -> Decision:
    """Return the end of Jobs that the spec does not ask for any more: two runs never share a volume's workspace."""
    deletes: list[Delete] = []
    deadlines: list[datetime] = []
    for job in observed.former_jobs:
        left = [pod for pod in job.pods if not pod.ended]
        if not job.deleting:
            deletes.append(delete(observed.run, job, "Background" if job.finished else "Foreground"))
        elif left and all(pod.overdue(now) for pod in left):
            # Its node does not answer: its pods are left to the workspace's fencing.
            deletes.append(delete(observed.run, job, "Background"))
        deadlines += [pod.deleting_since + OVERDUE_AFTER for pod in left if pod.deleting_since is not None]
    # Last: without it the Jobs are nobody's.
    deletes += [Delete(CONFIGMAPS, observed.owner.namespace, each.name, each.uid) for each in observed.former_plans]
    names = ", ".join([*(job.name for job in observed.former_jobs), *(each.name for each in observed.former_plans)])
    return Decision(
        Phase.RESTARTING,
        Reason.PLAN_SUPERSEDED,
        f"the spec has changed: {names} goes, then the version is made",
        ledger_of(observed.run.status),
        delete=tuple(deletes),
        plan=observed.run.plan,
        wake_at=min((each + timedelta(seconds=1) for each in deadlines), default=None),
    )


def _left_over(observed: Observed, spec: RewardModelSpec, versions: list[RewardModelVersion]) -> list[Delete]:
    """Return what a version that is made needs no more. Its Jobs stay, for their logs."""
    namespace = observed.owner.namespace
    plans = {short(each.plan_digest) for each in versions if each.plan_digest}
    deletes = [
        Delete(CONFIGMAPS, namespace, child.name, child.uid)
        for child in observed.children
        if (child.plan and child.plan not in plans) or (child.judged_by and child.judged_by != gate_name(spec))
    ]
    if observed.run.service_uid is not None:
        deletes.append(Delete(SERVICES, namespace, runs.service_name(observed.owner.name), observed.run.service_uid))
    jobs = (observed.run.live, observed.run.collect)
    # A sidecar keeps its pod, and with it GPUs, after the trainer has ended.
    deletes += [delete(observed.run, job, "Background") for job in jobs if job is not None and job.lingers]
    return deletes
