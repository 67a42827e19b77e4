"""The way to the next attempt: the checks that must pass, the plan that is frozen, the children that are made. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from rlhf_operator.common.conditions import find
from rlhf_operator.common.intents import Event, Manifest
from rlhf_operator.common.podtemplate import TemplateConflict
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.times import for_people

from . import children, retries
from .budget import check_budget
from .checks import Check, failed
from .decision import Decision, Phase
from .kueue import waiting_for_kueue
from .ledger import Ledger
from .progress import min_checkpoint_step
from .references import check_references
from .spec import RunSpec
from .startup import not_started
from .storage import check_storage
from .views import FrozenPlan, Refusal, Run

SHORTEST_POLL, LONGEST_POLL = timedelta(seconds=5), timedelta(seconds=60)
"""What is waited for lies outside the caches and is looked up: often at first, seldom after a while."""


def next_attempt(observed: Run, spec: RunSpec, ledger: Ledger, now: datetime) -> Decision:
    """Return what is to be done while no attempt's Job exists and none has succeeded."""
    if spec.suspend:
        return Decision(Phase.SUSPENDED, Reason.SUSPENDED, "spec.suspend is true", ledger, plan=observed.plan)
    exceeded = check_budget(ledger, spec, now)
    if exceeded is not None:
        return Decision(Phase.SUSPENDED, Reason.BUDGET_EXCEEDED, exceeded.message, ledger, plan=observed.plan)
    if not spec.supported.passed:
        return _blocked(observed, ledger, spec.supported, now)
    if observed.references is None:
        return Decision(Phase.PENDING, Reason.NOT_CHECKED, "references are looked up next", ledger, wake_at=now)
    references = check_references(
        spec, observed.references, observed.defaults.allowed_hosts, frozen=observed.plan is not None
    )
    storage = check_storage(observed.owner.name, spec, observed.references.claims, observed.claim)
    checked = Decision(Phase.PENDING, "", "", ledger, references=references, storage=storage, plan=observed.plan)
    for check in (references, storage):
        if not check.passed:
            return _blocked(observed, ledger, check, now, checked)
    plan = frozen_plan(observed, spec)
    if isinstance(plan, Check):
        return _blocked(observed, ledger, plan, now, checked)
    checked = replace(checked, plan=plan)
    earliest = retries.not_before(ledger)
    if earliest is not None and now < earliest:
        return _back_off(checked, earliest, now)
    try:
        return _create(observed, spec, plan, checked, now)
    except TemplateConflict as conflict:
        return _blocked(observed, ledger, _invalid_template(str(conflict)), now, checked)


def frozen_plan(observed: Run, spec: RunSpec) -> FrozenPlan | Check:
    """Return the plan made before, else resolve it: once, and never to another digest than the recorded one."""
    if observed.plan is not None:
        problem = observed.plan.read()
        if isinstance(problem, str):
            words = f"ConfigMap {observed.plan.config_map} holds a plan this operator can't read: {problem}"
            return failed(Reason.PLAN_UNREADABLE, words, permanent=True)
        return observed.plan
    if observed.references is None:
        return failed(Reason.NOT_CHECKED, "references are looked up next")
    try:
        plan = spec.resolve(observed.references, observed.defaults)
    except ValueError as error:
        return failed(Reason.INVALID_SPEC, f"the spec can't be resolved to a plan: {error}", permanent=True)
    frozen, before = children.freeze(observed.owner, plan), observed.status.plan_digest
    if before is not None and before != frozen.digest:
        return failed(
            Reason.PLAN_CHANGED,
            f"the plan's ConfigMap is gone and the spec now resolves to {frozen.digest}, not {before}: its checkpoints "
            f"belong to another plan. Restore the ConfigMap, or {spec.again}",
            permanent=True,
        )
    return frozen


def rendering(observed: Run, spec: RunSpec, plan: FrozenPlan) -> children.Rendering:
    """Return what children are made from."""
    return children.Rendering(observed.owner, spec, plan, observed.defaults.trainer_image_pull_policy)


def standing(observed: Run, spec: RunSpec) -> tuple[Manifest, ...]:
    """Return the children that are kept as they should be for as long as pods may need them."""
    settings = children.settings_config_map(observed.owner, spec)
    # What a former version made for one worker stays until the job's end, when it is deleted.
    return (settings, children.service(observed.owner)) if spec.compute.workers > 1 else (settings,)


def _create(observed: Run, spec: RunSpec, plan: FrozenPlan, checked: Decision, now: datetime) -> Decision:
    ledger = checked.ledger
    number = max(ledger.next_number(observed.attempts), observed.numbers_from + 1)
    avoid = retries.nodes_to_avoid(ledger)
    arguments = children.AttemptArguments(
        number=number,
        micro_batch_size=retries.next_micro_batch_size(ledger, spec),
        min_checkpoint_step=min_checkpoint_step(observed.status),
        avoid_nodes=avoid,
    )
    render = rendering(observed, spec, plan)
    job = children.training_job(render, arguments)
    if observed.refusal is not None:
        return _blocked(observed, ledger, _refused(observed.refusal), now, checked)
    create: list[Manifest] = []
    if observed.plan is None:
        create.append(children.plan_config_map(observed.owner, plan))
    if spec.storage.claim_name is None and observed.claim is None:
        create.append(children.storage_claim_manifest(observed.owner, spec))
    create.append(job)
    words = f"attempt {number} is started"
    if avoid:
        words += f"; it prefers nodes other than {', '.join(avoid)}, where attempts failed"
    before = retries.micro_batch_size(ledger, spec)
    if arguments.micro_batch_size != before:
        words += f"; microBatchSize {arguments.micro_batch_size} instead of {before} after OutOfMemory"
    queued = spec.compute.queue_name is not None
    return replace(
        checked,
        phase=Phase.QUEUED if queued else Phase.STARTING,
        reason=Reason.QUEUED if queued else Reason.STARTING,
        # As the next look at the Job will find it: a status that only counts pods that can't be there yet is a write.
        message=waiting_for_kueue(children.attempt_name(observed.owner.name, number), number, spec)
        if queued
        else f"attempt {number}: {not_started(spec.compute.workers, spec.compute.workers)}",
        ledger=ledger.opened(number, arguments.micro_batch_size, None),
        apply=standing(observed, spec),
        create=tuple(create),
        events=(Event("Normal", Reason.ATTEMPT_STARTED, words),),
    )


def _back_off(checked: Decision, earliest: datetime, now: datetime) -> Decision:
    last = checked.ledger.last
    words = f"attempt {last.number} ended with {last.class_}: {last.reason}; " if last is not None else ""
    return replace(
        checked,
        phase=Phase.RESTARTING,
        reason=Reason.BACK_OFF,
        message=f"{words}the next one follows after a back-off of {for_people(earliest - (last.to or now))}"
        if last is not None
        else "waits",
        wake_at=earliest,
    )


def _invalid_template(words: str) -> Check:
    return failed(Reason.TEMPLATE_INVALID, f"the pods can't be made as the spec asks: {words}", permanent=True)


def _refused(refusal: Refusal) -> Check:
    if refusal.permanent:
        return _invalid_template(refusal.message)
    words = f"the API server does not take the Job at the moment, it is offered again: {refusal.message}"
    return failed(Reason.WRITE_REFUSED, words)


def _blocked(observed: Run, ledger: Ledger, check: Check, now: datetime, checked: Decision | None = None) -> Decision:
    """Return the wait for what a check lacks. A permanent lack is looked at again only when the spec changes."""
    decision = checked or Decision(Phase.PENDING, "", "", ledger, plan=observed.plan)
    wake_at = None
    if not check.permanent:
        before = find(observed.status.conditions, "Reconciling")
        waiting = now - before.last_transition_time if before and before.last_transition_time else timedelta()
        wake_at = now + min(max(waiting / 2, SHORTEST_POLL), LONGEST_POLL)
    return replace(
        decision,
        phase=Phase.STALLED if check.permanent else Phase.PENDING,
        reason=check.reason,
        message=check.message,
        wake_at=wake_at,
    )
