"""After training: the publish Job, its record, and the gate's verdict. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rlhf_operator.api.result import ArtifactRecord
from rlhf_operator.common.intents import Delete, Manifest
from rlhf_operator.common.reasons import Reason

from . import children
from .checks import Check
from .classify import Failure, ending
from .decision import Decision, Phase
from .ledger import Ledger
from .running import delete
from .spec import RunSpec
from .starting import frozen_plan, rendering
from .startup import all_started, look_for_pods_at, what_keeps
from .views import FrozenPlan, Run


def publishing(observed: Run, spec: RunSpec, ledger: Ledger, now: datetime) -> Decision:
    """Return what is to be done after training has succeeded, until the artifact's record is read."""
    left = tuple(
        delete(observed, job, "Background")
        # A sidecar keeps its pod, and with it GPUs, after the trainer has ended.
        for job in (observed.live, observed.collect)
        if job is not None and not job.deleting and (job.role == children.COLLECT or job.lingers)
    )
    job = observed.publish
    if job is None or job.deleting:
        if spec.suspend:
            words = "spec.suspend is true; training has succeeded, publishing waits"
            return Decision(Phase.SUSPENDED, Reason.SUSPENDED, words, ledger, delete=left, plan=observed.plan)
        return _publish(observed, spec, ledger, left, waiting=job is not None)
    record = job.verdict.artifact if job.verdict is not None and job.verdict.failure is None else None
    if record is not None:
        return _published(observed, spec, ledger, record, left)
    if not job.finished:
        words = "the artifact is made and its gate judged"
        if not all_started(job):
            words = f"the publish pod has not started: {what_keeps(job, observed.pod_refusal)}"
        waiting = Decision(Phase.PUBLISHING, Reason.PUBLISHING, words, ledger, delete=left, plan=observed.plan)
        return replace(waiting, wake_at=look_for_pods_at(job, now))
    if job.complete:
        # Its pod went before it was read. Publishing again gives the same content, and so the same digest.
        words = "the publish pod was gone before its record was read; it is run again"
        again = (*left, delete(observed, job, "Background"))
        return Decision(Phase.PUBLISHING, Reason.PUBLISHING, words, ledger, delete=again, plan=observed.plan)
    end = ending(job, None, now)
    words = end.message if isinstance(end, Failure) else job.failed_message
    message = f"publishing failed: {words}. Training is done: {spec.publish_again}"
    return Decision(Phase.FAILED, Reason.PUBLISH_FAILED, message, ledger, delete=left, plan=observed.plan)


def _publish(observed: Run, spec: RunSpec, ledger: Ledger, left: tuple[Delete, ...], *, waiting: bool) -> Decision:
    plan: FrozenPlan | Check = observed.plan or frozen_plan(observed, spec)
    if isinstance(plan, Check) or isinstance(plan.read(), str):
        words = plan.message if isinstance(plan, Check) else plan.read()
        return Decision(Phase.STALLED, Reason.PLAN_CHANGED, f"publishing needs the plan: {words}", ledger, delete=left)
    words = "training has succeeded; the artifact is published"
    number = ledger.last.number if ledger.last is not None else 1
    create: list[Manifest] = []
    if not waiting:
        if spec.judged_by:
            create.append(children.gate_config_map(observed.owner, spec))
        create.append(children.publish_job(rendering(observed, spec, plan), number))
    publishing = Decision(Phase.PUBLISHING, Reason.PUBLISHING, words, ledger, create=tuple(create), plan=observed.plan)
    return replace(publishing, delete=left)


def _published(
    observed: Run, spec: RunSpec, ledger: Ledger, record: ArtifactRecord, left: tuple[Delete, ...]
) -> Decision:
    phase, reason = Phase.COMPLETE, Reason.COMPLETE
    message = f"{record.ref} is published, gate {record.gate}"
    if record.gate == "Failed":
        phase, reason = Phase.FAILED, Reason.GATE_FAILED
        message = (
            f"the evaluation's gate failed: {record.gate_message or 'no figure was given'}. "
            f"Nothing is published; the {spec.product} stays at {record.ref}"
        )
    return Decision(phase, reason, message, ledger, delete=left, plan=observed.plan, artifact=record)
