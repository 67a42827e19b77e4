"""All reading for one RLHFJob: the object itself, and what its run has around it."""

from __future__ import annotations

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import find
from rlhf_operator.common.intents import Manifest, OperatorDefaults
from rlhf_operator.common.names import Owner
from rlhf_operator.common.objects import spec_of, status_of
from rlhf_operator.common.reader import Reader
from rlhf_operator.runs import children
from rlhf_operator.runs import observe as runs
from rlhf_operator.runs.views import FrozenPlan

from .finished import finished
from .run import run_spec
from .views import Observed


async def observe(obj: Manifest, reader: Reader, defaults: OperatorDefaults, clock: runs.Clock) -> Observed:
    """Return one job and everything around it. Raises ReadFailed when a dry run gets no answer."""
    observed = _cached(obj, reader, defaults)
    if observed.spec is None or finished(observed):
        return observed
    spec = run_spec(observed.owner, observed.spec)
    observed = await runs.look(observed, spec, reader, clock)
    if observed.live is not None and find(observed.status.conditions, "ReferencesResolved") is None:
        # The Job was made and the status that told of it was lost: what was looked up then is on no record.
        return await runs.look_up_references(observed, spec, reader)
    return observed


def _cached(obj: Manifest, reader: Reader, defaults: OperatorDefaults) -> Observed:
    """Return what the caches hold: nothing here asks the API server."""
    meta = obj["metadata"]
    namespace, uid = meta.get("namespace", ""), meta["uid"]
    owner = Owner("RLHFJob", namespace, meta["name"], uid)
    spec, problem = spec_of(obj, RLHFJobSpec)
    jobs = runs.jobs_of(reader, namespace, uid)
    attempts = runs.by_attempt(jobs)
    return Observed(
        owner=owner,
        generation=meta.get("generation", 0),
        spec=spec,
        spec_problem=problem,
        status=status_of(obj, RLHFJobStatus),
        raw_status=obj.get("status") or {},
        defaults=defaults,
        attempts=attempts,
        publish=runs.newest(jobs, children.PUBLISH),
        collect=runs.newest(jobs, children.COLLECT),
        plan=_plan(reader, owner, obj),
        claim=runs.own_claim(reader, owner, spec) if spec is not None else None,
        service_uid=runs.service_uid(reader, owner),
        workload=runs.workload_of(reader, namespace, attempts),
    )


def _plan(reader: Reader, owner: Owner, obj: Manifest) -> FrozenPlan | None:
    plans = runs.plans_of(reader, owner.namespace, owner.uid, TrainingPlan)
    recorded = (obj.get("status") or {}).get("planDigest")
    return next((plan for plan in plans if plan.digest == recorded), plans[0] if plans and not recorded else None)
