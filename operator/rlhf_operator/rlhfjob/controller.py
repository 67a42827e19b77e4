"""The RLHFJob controller as the runtime sees it: what it watches, and its three steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.intents import Manifest, OperatorDefaults, Plan, WriteFailure
from rlhf_operator.common.reader import Child, Reader
from rlhf_operator.common.resources import REWARDMODELS, RLHFJOBS, Resource
from rlhf_operator.runs.caching import RUN_CHILDREN

from . import reconcile as decisions
from .observe import observe
from .views import Observed


def _now() -> datetime:
    return datetime.now(UTC)


class RLHFJobController:
    """Implements `common.reader.Controller` for RLHFJob."""

    def __init__(self, defaults: OperatorDefaults, clock: Callable[[], datetime] = _now) -> None:
        self._defaults = defaults
        self._clock = clock

    @property
    def resource(self) -> Resource:
        """The kind that is reconciled."""
        return RLHFJOBS

    @property
    def children(self) -> tuple[Child, ...]:
        """What is cached beside it."""
        return (*RUN_CHILDREN, Child(REWARDMODELS, selector=None))

    async def observe(self, obj: Manifest, reader: Reader) -> Observed:
        """All reading."""
        return await observe(obj, reader, self._defaults, self._clock)

    def reconcile(self, observed: Observed, now: datetime) -> Plan:
        """Pure: everything to be done."""
        return decisions.reconcile(observed, now)

    def write_failed(self, observed: Observed, now: datetime, failure: WriteFailure) -> Plan:
        """Pure: status and events for a plan that stopped at a refused write."""
        return decisions.failure_plan(observed, now, failure)

    def phase(self, obj: Mapping[str, Any]) -> str:
        """The object's phase, for the metric only."""
        return str((obj.get("status") or {}).get("phase") or "Pending")
