"""The RewardModel controller as the runtime sees it: what it watches, and its three steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.intents import MANAGED_SELECTOR, Manifest, OperatorDefaults, Plan, WriteFailure
from rlhf_operator.common.names import ROLE_LABEL
from rlhf_operator.common.reader import Child, Reader
from rlhf_operator.common.resources import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    PDBS,
    POLICYROLLOUTS,
    REWARDMODELS,
    RLHFJOBS,
    SCALEDOBJECTS,
    Resource,
)
from rlhf_operator.runs.caching import RUN_CHILDREN

from . import reconcile as decisions
from .children import SCORER
from .observe import observe
from .views import Observed


def _now() -> datetime:
    return datetime.now(UTC)


def _scales(obj: Manifest) -> bool:
    """Whether a RewardModel's pods follow their queue."""
    return "autoscaling" in ((obj.get("spec") or {}).get("serving") or {})


def _ready_endpoints(found: dict[str, Any]) -> None:
    """Addresses are the proxies' business; all that is asked is whether there is one that is ready."""
    found["endpoints"] = [{"conditions": each.get("conditions") or {}} for each in found.get("endpoints") or ()]
    found.pop("ports", None)


class RewardModelController:
    """Implements `common.reader.Controller` for RewardModel."""

    def __init__(self, defaults: OperatorDefaults, clock: Callable[[], datetime] = _now) -> None:
        self._defaults = defaults
        self._clock = clock

    @property
    def resource(self) -> Resource:
        """The kind that is reconciled."""
        return REWARDMODELS

    @property
    def children(self) -> tuple[Child, ...]:
        """What is cached beside it: its run's objects, its pods', and those who use it."""
        return (
            *RUN_CHILDREN,
            Child(DEPLOYMENTS),
            # Kubernetes gives them their Service's labels: the ones of training pods are not watched.
            Child(ENDPOINTSLICES, selector=f"{MANAGED_SELECTOR},{ROLE_LABEL}={SCORER}", trim=_ready_endpoints),
            Child(PDBS),
            Child(SCALEDOBJECTS, optional=True, sought_by=_scales),
            Child(RLHFJOBS, selector=None),
            Child(POLICYROLLOUTS, selector=None),
        )

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
