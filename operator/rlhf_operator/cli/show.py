"""A rollout as text for people: what serves, the step, the last round of measurements, history. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rlhf_operator.api.rolloutstatus import MetricStatus, PolicyRolloutStatus
from rlhf_operator.common.intents import Manifest

_NOTHING = "-"
_CONDITIONS = ("Ready", "RouteAccepted", "CandidateAvailable", "AnalysisHealthy", "Paused")


def rollout(manifest: Manifest, status: PolicyRolloutStatus, now: datetime) -> str:
    """Everything there is to know, in the words of status."""
    meta = manifest["metadata"]
    parts = [f"{meta['namespace']}/{meta['name']}: {line(status.phase) or 'New'}"]
    if status.message:
        parts.append(f"  {line(status.message)}")
    behind = meta.get("generation"), status.observed_generation
    if None not in behind and behind[0] != behind[1]:
        parts.append("  The operator has not looked at the newest spec yet.")
    parts += _section("", ("VARIANT", "REVISION", "WEIGHT", "MIRROR", "READY", "SERVES"), _variants(status))
    parts += _step(manifest, status, now)
    parts += _conditions(status)
    analysis = [_metric(each) for each in status.analysis]
    parts += _section("", ("METRIC", "OUTCOME", "VALUE", "INTERVAL", "SAMPLES", "REASON"), analysis)
    history = [
        (each.revision, each.outcome, each.reason, each.by, _ago(each.to, now), each.message) for each in status.history
    ]
    parts += _section("", ("ENDED", "OUTCOME", "REASON", "BY", "AGO", "WHY"), history)
    rejected = [(each.revision, each.reason, _ago(each.at, now), each.message) for each in status.rejected]
    parts += _section("Not tried again, unless by kubectl rlhf retry:", ("REVISION", "REASON", "AGO", "WHY"), rejected)
    if status.last_command is not None:
        last = status.last_command
        words = f"{line(last.verb)} by {line(last.by) or 'unknown'}, {_ago(last.at, now)} ago ({line(last.id)})"
        parts += ["", f"Last command: {words}"]
    return "\n".join(parts)


def _variants(status: PolicyRolloutStatus) -> list[tuple[Any, ...]]:
    return [
        (
            each.name,
            each.revision,
            _percent(each.weight),
            _percent(each.mirror_percent),
            f"{each.ready or 0}/{each.replicas}" if each.replicas is not None else None,
            each.ref or each.digest,
        )
        for each in status.variants
    ]


def _step(manifest: Manifest, status: PolicyRolloutStatus, now: datetime) -> list[str]:
    step = status.step
    if step is None or not step.name:
        return []
    steps = ((manifest.get("spec") or {}).get("strategy") or {}).get("steps") or []
    place = f" ({step.index + 1} of {len(steps)})" if step.index is not None and 0 <= step.index < len(steps) else ""
    since = f", for {_ago(step.started_at, now)}" if step.started_at is not None else ""
    words = f": {line(step.message)}" if step.message else ""
    return ["", f"Step {line(step.name)}{place}{since}{words}"]


def _conditions(status: PolicyRolloutStatus) -> list[str]:
    """Those that are not as one wishes: the others would only hide them."""
    wished = {name: "False" if name == "Paused" else "True" for name in _CONDITIONS}
    odd = [each for each in status.conditions if each.type in wished and each.status != wished[each.type]]
    rows = [(each.type, each.status, each.reason, each.message) for each in odd]
    return _section("", ("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)


def _metric(metric: MetricStatus) -> tuple[Any, ...]:
    interval = " – ".join(f"{bound:.4g}" for bound in metric.interval) if len(metric.interval) == 2 else None
    value = f"{metric.value:.4g}" if metric.value is not None else None
    return metric.metric, metric.outcome, value, interval, metric.samples, metric.message or metric.reason


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table below an empty line; nothing when it has no rows."""
    cells = [[line(cell) if cell not in (None, "") else _NOTHING for cell in row] for row in rows]
    if not cells:
        return []
    table = [list(head), *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return ["", *([title] if title else []), *lines]


def _percent(value: int | None) -> str | None:
    return f"{value} %" if value is not None else None


def _ago(at: datetime | None, now: datetime) -> str:
    if at is None:
        return _NOTHING
    seconds = max(0, round((now - at).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def line(value: object) -> str:
    """One line that can't steer a terminal, whatever was written into status."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value if value is not None else ""))
