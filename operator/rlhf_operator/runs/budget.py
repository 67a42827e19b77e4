"""GPU hours and money: what a job has used, what it may use, and when that will be reached. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from rlhf_operator.api.jobstatus import CostStatus

from .ledger import Ledger, gpu_hours
from .spec import RunSpec


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The budget is used up."""

    message: str


def gpus(spec: RunSpec) -> int:
    """Return the GPUs that an attempt holds."""
    return spec.compute.workers * spec.compute.gpus_per_worker


def used(ledger: Ledger, spec: RunSpec, until: datetime) -> float:
    """Return GPU hours over all attempts."""
    running = ledger.open
    return ledger.ended_gpu_hours + (gpu_hours(running.from_, until, gpus(spec)) if running is not None else 0.0)


def limit(spec: RunSpec) -> tuple[float, str] | None:
    """Return the smallest limit in GPU hours and the field that sets it."""
    budget = spec.budget
    if budget is None:
        return None
    limits: list[tuple[float, str]] = []
    if budget.max_gpu_hours is not None:
        limits.append((budget.max_gpu_hours, f"budget.maxGPUHours {budget.max_gpu_hours:g}"))
    price = Decimal(budget.price_per_gpu_hour or "0")
    if budget.max_cost is not None and price > 0:
        limits.append((float(Decimal(budget.max_cost) / price), f"budget.maxCost {budget.max_cost}"))
    return min(limits) if limits else None


def check_budget(ledger: Ledger, spec: RunSpec, now: datetime) -> Exceeded | None:
    """Return that the budget is used up, with the words that say so."""
    bound = limit(spec)
    hours = used(ledger, spec, now)
    if bound is None or hours < bound[0]:
        return None
    return Exceeded(
        f"{hours:.2f} GPU hours are used, {bound[1]} is reached: raise it to go on from the last checkpoint"
    )


def reached_at(ledger: Ledger, spec: RunSpec, now: datetime) -> datetime | None:
    """Return when the running attempt will use the budget up."""
    bound, held = limit(spec), gpus(spec)
    if bound is None or held == 0 or ledger.open is None or ledger.open.from_ is None:
        return None
    left = bound[0] - used(ledger, spec, now)
    return now + timedelta(hours=min(max(0.0, left) / held, 24 * 365))


def cost(ledger: Ledger, spec: RunSpec, now: datetime, interval_seconds: float) -> CostStatus | None:
    """Return the status of cost; None without GPUs.

    The running attempt counts in whole intervals: else every look at it would be a write.
    """
    if gpus(spec) == 0:
        return None
    until = now
    running = ledger.open
    if running is not None and running.from_ is not None:
        whole = max(0.0, (now - running.from_).total_seconds()) // interval_seconds * interval_seconds
        until = running.from_ + timedelta(seconds=whole)
    hours = used(ledger, spec, until)
    price = spec.budget.price_per_gpu_hour if spec.budget is not None else None
    amount = None
    if price is not None:
        amount = str((Decimal(price) * Decimal(str(hours))).quantize(Decimal("0.01"), ROUND_HALF_UP))
    return CostStatus(gpu_hours=round(hours, 4), ended_gpu_hours=round(ledger.ended_gpu_hours, 6), amount=amount)
