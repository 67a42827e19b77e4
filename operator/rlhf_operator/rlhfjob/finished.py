"""What is left to do for a job that is Complete or Failed. Pure."""

from __future__ import annotations

from datetime import datetime

from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.conditions import is_true
from rlhf_operator.common.intents import Delete, Plan
from rlhf_operator.common.resources import RLHFJOBS, SERVICES
from rlhf_operator.runs import children
from rlhf_operator.runs.running import delete

from .ttl import expires_at
from .views import Observed


def finished(observed: Observed) -> bool:
    """Whether the job is Complete or Failed for good."""
    return any(is_true(observed.status.conditions, name) for name in ("Complete", "Failed"))


def clean_up(observed: Observed, spec: RLHFJobSpec, now: datetime) -> Plan:
    """Return what is left to do for a finished job: its pods end, its names are freed, it goes when its time is up.

    Finished Jobs stay, for their logs. Nothing is written to a status that is final.
    """
    expiry = expires_at(spec, observed.status)
    if expiry is not None and now >= expiry:
        owner = observed.owner
        return Plan(delete=(Delete(RLHFJOBS, owner.namespace, owner.name, owner.uid, "Background"),))
    jobs = [*observed.attempts, *(job for job in (observed.publish, observed.collect) if job is not None)]
    deletes = [
        delete(observed, job, "Background")
        for job in jobs
        if not job.deleting and (job.lingers or job.role == children.COLLECT)
    ]
    if observed.service_uid is not None:
        name = children.service_name(observed.owner.name)
        deletes.append(Delete(SERVICES, observed.owner.namespace, name, observed.service_uid))
    return Plan(delete=tuple(deletes), wake_at=expiry)
