"""When a finished job is deleted. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.rlhfjob import RLHFJobSpec


def expires_at(spec: RLHFJobSpec, status: RLHFJobStatus) -> datetime | None:
    """Return when a finished job is deleted; None for never."""
    if spec.ttl_seconds_after_finished is None or status.completion_time is None:
        return None
    # Beyond what datetime can count is never.
    return status.completion_time + timedelta(seconds=min(spec.ttl_seconds_after_finished, 10**9))
