"""What one reconcile knows of an RLHFJob: its run, and what only this kind has. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.runs.views import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed(Run):
    """One RLHFJob and everything around it, at one moment."""

    spec: RLHFJobSpec | None
    status: RLHFJobStatus
    spec_problem: str = ""
    """Why the spec can't be read; then `spec` is None."""
    raw_status: Mapping[str, object] = field(default_factory=dict)
