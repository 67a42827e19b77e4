"""An attempt whose Job exists: queueing, starting, running, stopping, and the reading of its end. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rlhf_operator.api.exitcodes import FailureClass
from rlhf_operator.common.conditions import TRUE, find
from rlhf_operator.common.intents import Delete, Propagation
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import JOBS
from rlhf_operator.common.times import for_people

from . import children, retries, startup
from .budget import check_budget, gpus, reached_at
from .classify import Failure, NoVerdict, Success, ending
from .decision import Decision, Phase
from .kueue import queueing
from .ledger import COUNTED, SUCCEEDED, Ledger, was_preempted
from .progress import silent
from .spec import RunSpec
from .starting import rendering, standing
from .views import JobView, Run

NO_RESULT = "NoResult"
"""Reason of a collect pod that could read the workspace and found no result: asking again gives the same answer."""


def with_job(observed: Run, spec: RunSpec, ledger: Ledger, job: JobView, now: datetime) -> Decision:
    """Return what is to be done about the newest attempt's Job."""
    last = ledger.last
    if last is not None and last.number == job.attempt and last.class_ is not None and not was_preempted(last):
        return _settle(observed, spec, ledger, job, now)
    if ledger.open is None and not (job.suspended and last is not None and last.number == job.attempt):
        ledger = ledger.opened(job.attempt, job.micro_batch_size, None)
    if job.deleting:
        return _stopping(observed, spec, ledger, job, now)
    if job.over(now):
        return _ended(observed, spec, ledger, job, now)
    stop = why_stop(spec, ledger, now)
    if stop is not None:
        return Decision(
            Phase.SUSPENDING,
            Reason.SUSPENDING,
            f"attempt {job.attempt} is stopped: {stop[1]}",
            ledger,
            delete=(delete(observed, job, "Foreground"),),
            plan=observed.plan,
        )
    decision = Decision(Phase.RUNNING, Reason.RUNNING, "", ledger, apply=standing(observed, spec), plan=observed.plan)
    if job.suspended:
        return _queued(observed, spec, decision, job, now)
    if job.held_from is not None and any(pod.node is not None for pod in job.pods):
        # Before a pod has a node nothing is used; and a status that only notes the Job's own start is a write too many.
        ledger = ledger.started(job.held_from)
    decision = replace(decision, ledger=ledger)
    if startup.all_started(job):
        return _running(observed, spec, decision, job, now)
    return _starting(observed, spec, decision, job, now)


def vanished(observed: Run, spec: RunSpec, ledger: Ledger, now: datetime) -> Decision:
    """Return the record of an attempt whose Job is gone: stopped by us, or deleted by somebody."""
    stop = why_stop(spec, ledger, now)
    number = ledger.open.number if ledger.open is not None else 0
    if stop is not None:
        reason, words = stop
        closed = ledger.closed(FailureClass.INTERRUPTED, f"{reason.value}: {words}", now, gpus=gpus(spec))
        return Decision(Phase.SUSPENDED, reason, words, closed, plan=observed.plan)
    words = "its Job was deleted"
    closed = ledger.closed(FailureClass.DISRUPTION, words, now, gpus=gpus(spec))
    message = f"attempt {number}: {words}; the next one goes on from the last checkpoint"
    return Decision(Phase.RESTARTING, Reason.RESTARTING, message, closed, plan=observed.plan, wake_at=now)


def why_stop(spec: RunSpec, ledger: Ledger, now: datetime) -> tuple[Reason, str] | None:
    """Return why no pod may run, with the words that say what would change it."""
    if spec.suspend:
        return Reason.SUSPENDED, "spec.suspend is true"
    exceeded = check_budget(ledger, spec, now)
    return (Reason.BUDGET_EXCEEDED, exceeded.message) if exceeded is not None else None


def delete(observed: Run, job: JobView, propagation: Propagation) -> Delete:
    """Return the deletion of exactly this Job."""
    return Delete(JOBS, observed.owner.namespace, job.name, job.uid, propagation)


def _queued(observed: Run, spec: RunSpec, decision: Decision, job: JobView, now: datetime) -> Decision:
    ledger = decision.ledger
    state = queueing(job, observed.workload, ledger.last, now, observed.defaults.kueue_timeout_seconds)
    open_ = ledger.open
    if open_ is not None and open_.from_ is not None:
        # Time in the queue costs nothing: the run so far is closed and the next one opened when it is admitted.
        words = f"{Reason.PREEMPTED.value}: {state.message}"
        ledger = ledger.closed(FailureClass.DISRUPTION, words, job.held_until(now), gpus=gpus(spec))
    return replace(
        decision,
        phase=Phase.QUEUED,
        reason=state.reason,
        message=f"attempt {job.attempt} {state.message}",
        ledger=ledger,
        wake_at=state.wake_at,
    )


def _starting(observed: Run, spec: RunSpec, decision: Decision, job: JobView, now: datetime) -> Decision:
    limit = startup.deadline(job, spec)
    if limit is not None and now >= limit:
        failure = Failure(FailureClass.GANG_NOT_SCHEDULED, startup.gave_up(job, spec, observed.pod_refusal))
        return _failed(observed, spec, decision.ledger, failure, now, now)
    return replace(
        decision,
        phase=Phase.STARTING,
        reason=Reason.STARTING,
        message=f"attempt {job.attempt}: {startup.what_keeps(job, observed.pod_refusal)}",
        wake_at=_earliest(limit, reached_at(decision.ledger, spec, now), startup.look_for_pods_at(job, now)),
    )


def _running(observed: Run, spec: RunSpec, decision: Decision, job: JobView, now: datetime) -> Decision:
    silence = silent(observed, spec, decision.ledger, now)
    if silence is not None:
        return _failed(observed, spec, decision.ledger, Failure(FailureClass.STALLED, silence), now, now)
    next_reading = now + timedelta(seconds=observed.defaults.progress_interval_seconds)
    reason, message = _what_runs(observed, job)
    return replace(
        decision,
        phase=Phase.RUNNING,
        reason=reason,
        message=message,
        wake_at=_earliest(next_reading, reached_at(decision.ledger, spec, now)),
    )


def _what_runs(observed: Run, job: JobView) -> tuple[str, str]:
    """Return reason and words of a running attempt, with the guards that warn at the moment."""
    words = f"attempt {job.attempt} runs on {job.workers} worker{'s' * (job.workers > 1)}"
    reading, recorded = observed.progress, find(observed.status.conditions, "Running")
    if reading is None:
        # Not asked this time: what was read last stands.
        if recorded is not None and recorded.status == TRUE and recorded.message.startswith(words):
            return recorded.reason, recorded.message
        return Reason.RUNNING, words
    if reading.warnings:
        return Reason.GUARD_WARNING, f"{words}; {'; '.join(reading.warnings)}"
    return Reason.RUNNING, words


def _stopping(observed: Run, spec: RunSpec, ledger: Ledger, job: JobView, now: datetime) -> Decision:
    """A Job under deletion ends as it may: only a result that came first still counts."""
    digest = observed.plan.digest if observed.plan is not None else observed.status.plan_digest
    finished = ending(job, digest, now)
    if isinstance(finished, Success):
        return _succeeded(observed, spec, ledger, finished, job.held_until(now))
    stop = why_stop(spec, ledger, now)
    decision = Decision(
        Phase.SUSPENDING if stop is not None else Phase.RESTARTING,
        Reason.SUSPENDING if stop is not None else Reason.RESTARTING,
        f"attempt {job.attempt} is stopping",
        ledger,
        plan=observed.plan,
    )
    return _let_go(observed, decision, job, now)


def _let_go(observed: Run, decision: Decision, job: JobView, now: datetime) -> Decision:
    """A Job deleted in the foreground waits for pods on a dead node for ever: then the pods are left to be fenced."""
    remaining = [pod for pod in job.pods if not pod.ended]
    if remaining and all(pod.overdue(now) for pod in remaining):
        return replace(decision, delete=(delete(observed, job, "Background"),))
    deadlines = [pod.deleting_since + timedelta(seconds=61) for pod in remaining if pod.deleting_since is not None]
    return replace(decision, wake_at=min(deadlines, default=None))


def _settle(observed: Run, spec: RunSpec, ledger: Ledger, job: JobView, now: datetime) -> Decision:
    """The end is recorded: the Job goes, and only when it is gone another is made."""
    last = ledger.last
    stop = why_stop(spec, ledger, now)
    ended = f"attempt {job.attempt} ended with {last.class_}: {last.reason}" if last is not None else ""
    decision = Decision(
        Phase.SUSPENDING if stop is not None else Phase.RESTARTING,
        Reason.SUSPENDING if stop is not None else Reason.RESTARTING,
        ended,
        ledger,
        plan=observed.plan,
    )
    if job.deleting:
        return _let_go(observed, decision, job, now)
    unreachable = any(pod.overdue(now) for pod in job.pods)
    deletes = [delete(observed, job, "Background" if unreachable else "Foreground")]
    if observed.collect is not None and not observed.collect.deleting:
        deletes.append(delete(observed, observed.collect, "Background"))
    return replace(decision, delete=tuple(deletes))


def _ended(observed: Run, spec: RunSpec, ledger: Ledger, job: JobView, now: datetime) -> Decision:
    digest = observed.plan.digest if observed.plan is not None else observed.status.plan_digest
    if job.held_from is not None:
        ledger = ledger.started(job.held_from)
    end = ending(job, digest, now)
    if isinstance(end, NoVerdict):
        return _collect(observed, spec, ledger, job, end, now)
    if isinstance(end, Success):
        return _succeeded(observed, spec, ledger, end, job.held_until(now))
    return _failed(observed, spec, ledger, end, job.held_until(now), now)


def _succeeded(observed: Run, spec: RunSpec, ledger: Ledger, success: Success, end: datetime) -> Decision:
    verdict = success.verdict
    words = verdict.message or verdict.reason
    return Decision(
        Phase.PUBLISHING,
        Reason.PUBLISHING,
        "training has succeeded; the artifact is published next",
        ledger.closed(SUCCEEDED, words, end, gpus=gpus(spec)),
        plan=observed.plan,
        verdict=verdict,
    )


def _failed(observed: Run, spec: RunSpec, ledger: Ledger, failure: Failure, end: datetime, now: datetime) -> Decision:
    """Record the end and what follows. The Job itself goes in a later pass, when this is on record."""
    number = ledger.open.number if ledger.open is not None else 0
    failure = retries.judged(failure, ledger)
    gave_up = retries.verdict(failure, ledger, spec)
    counted = failure.failure in COUNTED and gave_up is None
    closed = ledger.closed(failure.failure, failure.message, end, gpus=gpus(spec), node=failure.node, counted=counted)
    if gave_up is not None:
        return Decision(
            Phase.FAILED, gave_up.reason, gave_up.message, closed, plan=observed.plan, verdict=failure.verdict
        )
    earliest = retries.not_before(closed)
    soon = f"in {for_people(earliest - now)}" if earliest is not None and earliest > now else "at once"
    counting = f", restart {closed.restarts} of {spec.max_restarts}" if counted else ""
    return Decision(
        Phase.RESTARTING,
        failure.failure.value,
        f"attempt {number} ended with {failure.failure.value}: {failure.message}; "
        f"the next one follows {soon}{counting}",
        closed,
        plan=observed.plan,
        verdict=failure.verdict,
        # On record now; the Job is deleted when this write comes back, or at the latest then.
        wake_at=now,
    )


def _collect(observed: Run, spec: RunSpec, ledger: Ledger, job: JobView, end: NoVerdict, now: datetime) -> Decision:
    """Nobody is left to say how it ended: result.json is read by a small Job."""
    waiting = Decision(
        Phase.FINISHING,
        Reason.COLLECTING,
        f"{end.message}; its result is read from the workspace",
        ledger,
        plan=observed.plan,
    )
    collect = observed.collect if observed.collect is not None and observed.collect.attempt == job.attempt else None
    if collect is None:
        if observed.plan is None or isinstance(observed.plan.read(), str):
            failure = Failure(FailureClass.RESULT_UNKNOWN, f"{end.message}, and the plan's ConfigMap is gone too")
            return _failed(observed, spec, ledger, failure, job.held_until(now), now)
        return replace(waiting, create=(children.collect_job(rendering(observed, spec, observed.plan), job.attempt),))
    verdict = collect.verdict
    digest = observed.plan.digest if observed.plan is not None else observed.status.plan_digest
    if verdict is not None and verdict.failure is None and verdict.plan_digest == digest:
        return _succeeded(observed, spec, ledger, Success(verdict), job.held_until(now))
    final = verdict is not None and verdict.reason == NO_RESULT and verdict.plan_digest == digest
    if not collect.finished and not final:
        return waiting
    words = verdict.message if verdict is not None else collect.failed_message or "no result.json was found"
    return _failed(observed, spec, ledger, end.failure(job, words), job.held_until(now), now)


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)
