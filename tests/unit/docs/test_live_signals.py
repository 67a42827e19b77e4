"""The page on live signals knows every header, field, reason and count that a user can meet."""

from __future__ import annotations

import re
from pathlib import Path

from rlhf_operator.api import signals, trajectory
from rlhf_operator.api.base import to_camel
from rlhf_operator.api.feedback import Feedback, Verdict
from rlhf_server.live import refusals

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/live-signals.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`]+)`", PAGE))
LIVE = ROOT / "server-image/rlhf_server/live"


def test_every_field_of_feedback_and_every_verdict_is_explained() -> None:
    assert {to_camel(name) for name in Feedback.model_fields} <= NAMED
    assert {verdict.value for verdict in Verdict} <= NAMED


def test_every_refusal_is_explained() -> None:
    found = {
        name
        for name, value in vars(refusals).items()
        if isinstance(value, type) and issubclass(value, refusals.Refusal) and not value.__subclasses__()
    }
    assert len(found) == 9
    assert found <= NAMED


def test_every_header_is_explained() -> None:
    headers = {value for name, value in vars(trajectory).items() if name.endswith("_HEADER")}
    assert headers | {signals.SESSION_HEADER, signals.FEEDBACK_TOKEN_HEADER} <= NAMED
    assert all(f"-{name}`" in PAGE for name in signals.SLICE_HEADERS)


def test_every_field_of_the_record_is_named() -> None:
    names = {str(field.alias) for field in trajectory.Trajectory.model_fields.values()}
    families = ("gen_ai.request.", "gen_ai.usage.")
    told = {name for name in names if name in NAMED or name.startswith(families)}
    # What every record has, and no reader looks at one by one.
    assert names - told == {"rlhf.schema.version", "event.name", "gen_ai.operation.name", "gen_ai.provider.name"}


def test_every_reason_for_a_dropped_record_is_explained() -> None:
    said = "".join((LIVE / name).read_text() for name in ("recorder.py", "worker.py", "trajectories.py", "frames.py"))
    reasons = set(re.findall(r'(?:NotKept\(|dropped=|dropped = |return |_lose\([^"\n]*)"([a-z_]+)"', said))
    assert {"behind", "worker_lost", "spool_full", "consent", "no_sink", "redaction"} <= reasons
    assert reasons - {"conflict"} <= NAMED
