"""The PolicyRollout controller as the runtime sees it: what it watches, and its three steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.intents import Manifest, OperatorDefaults, Plan, WriteFailure
from rlhf_operator.common.reader import Child, Reader
from rlhf_operator.common.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    HTTPROUTES,
    PDBS,
    PODS,
    POLICYROLLOUTS,
    REWARDMODELS,
    RLHFJOBS,
    SCALEDOBJECTS,
    SERVICES,
    Resource,
)
from rlhf_operator.runs.caching import RUN_CHILDREN

from . import reconcile as decisions
from .look import Look
from .observe import observe


def _now() -> datetime:
    return datetime.now(UTC)


def _scales(obj: Manifest) -> bool:
    """Whether a rollout's pods follow their load."""
    return "autoscaling" in ((obj.get("spec") or {}).get("serving") or {})


class PolicyRolloutController:
    """Implements `common.reader.Controller` for PolicyRollout."""

    def __init__(self, defaults: OperatorDefaults, clock: Callable[[], datetime] = _now) -> None:
        self._defaults = defaults
        self._clock = clock

    @property
    def resource(self) -> Resource:
        """The kind that is reconciled."""
        return POLICYROLLOUTS

    @property
    def children(self) -> tuple[Child, ...]:
        """What is cached beside it: its own objects, and what it serves and is judged by."""
        return (
            *(each for each in RUN_CHILDREN if each.resource in (PODS, CONFIGMAPS, SERVICES)),
            Child(CONTROLLERREVISIONS),
            Child(DEPLOYMENTS),
            Child(PDBS),
            # A cluster without Gateway API is told so by a condition; the rest of the operator goes on.
            Child(HTTPROUTES, optional=True, sought_by=_always),
            Child(SCALEDOBJECTS, optional=True, sought_by=_scales),
            Child(RLHFJOBS, selector=None),
            Child(REWARDMODELS, selector=None),
        )

    async def observe(self, obj: Manifest, reader: Reader) -> Look:
        """All reading."""
        return await observe(obj, reader, self._defaults, self._clock)

    def reconcile(self, observed: Look, now: datetime) -> Plan:
        """Pure: everything to be done."""
        return decisions.reconcile(observed, now)

    def write_failed(self, observed: Look, now: datetime, failure: WriteFailure) -> Plan:
        """Pure: status and events for a plan that stopped at a refused write."""
        return decisions.failure_plan(observed, now, failure)

    def phase(self, obj: Mapping[str, Any]) -> str:
        """The object's phase, for the metric only."""
        return str((obj.get("status") or {}).get("phase") or "Pending")


def _always(_: Manifest) -> bool:
    return True
