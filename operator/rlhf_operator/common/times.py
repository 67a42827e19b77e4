"""Kubernetes' text form of points in time (RFC 3339, UTC, whole seconds), and spans for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def parse_time(text: str | None) -> datetime | None:
    """Return the moment, None for None or for what is not a time."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(moment: datetime) -> str:
    """Return `2026-01-31T12:00:00Z`: fractions are cut, as Kubernetes does in its own conditions."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def for_people(span: timedelta | float) -> str:
    """Return a span (or seconds) as `1h5m`, `90s` becoming `1m30s`."""
    seconds = round(span.total_seconds() if isinstance(span, timedelta) else span)
    if seconds < 1:
        return "0s"
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = (f"{hours}h" * bool(hours), f"{minutes}m" * bool(minutes), f"{seconds}s" * bool(seconds))
    return "".join(parts)
