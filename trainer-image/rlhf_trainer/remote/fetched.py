"""Inputs that were fetched: where they lie, what they were resolved to, who waits for them. Nothing fetches here.

<folder>/<key>/content/       the files; there with the note beside them, or not there at all
<folder>/<key>/source.json    the note: what was fetched
<folder>/<key>.revision       the commit of a hub, from the first attempt on
"""

import os
import time
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.plan import PlanSource, RunPlan
from rlhf_operator.api.result import Digest, ResolvedInput
from rlhf_trainer.errors import ConfigError, PeerLost

NOTE_FILE = "source.json"
_PERIOD_SECONDS = 0.5


class Note(Model):
    """What was fetched."""

    ref: str
    revision: str | None = None
    digest: Digest
    files: int
    size_bytes: int


def note_of(source: PlanSource) -> Note | None:
    """Return what a fetched input is, None while it is not there."""
    path = Path(source.path).with_name(NOTE_FILE)
    try:
        return Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConfigError(f"{path} can't be read: {str(error).splitlines()[0]}", reason="SourceUnusable") from error


def missing(plan: RunPlan) -> list[tuple[str, PlanSource]]:
    """Return (field, input) of what is still to be fetched."""
    return [(field, each) for field, each in plan.inputs() if each.fetch is not None and note_of(each) is None]


def resolved_inputs(plan: RunPlan) -> list[ResolvedInput]:
    """Return what the plan's inputs were resolved to, as far as they are fetched."""
    fetched = [(field, note_of(each)) for field, each in plan.inputs() if each.fetch is not None]
    return [
        ResolvedInput(field=field, revision=note.revision, digest=note.digest)
        for field, note in fetched
        if note is not None
    ]


def require_fetched(plan: RunPlan) -> None:
    """Raise ConfigError when something is not there."""
    if absent := missing(plan):
        names = ", ".join(f"{field} ({source.ref})" for field, source in absent)
        raise ConfigError(
            f"{names} has not been fetched: start with `launch`, or run `python -m rlhf_trainer fetch` first",
            reason="NotFetched",
        )


def wait_until_fetched(plan: RunPlan, seconds: float) -> None:
    """Wait until another pod has fetched everything. Raises PeerLost."""
    deadline = time.monotonic() + seconds
    while absent := missing(plan):
        if time.monotonic() > deadline:
            raise PeerLost(
                f"{absent[0][0]}: pod 0 has not fetched {absent[0][1].ref} within {seconds:.0f} s",
                reason="NotFetched",
            )
        time.sleep(_PERIOD_SECONDS)


def fetch_environment() -> dict[str, str]:
    """The environment of the process that fetches: of all that the trainer runs, it alone may ask a hub."""
    found = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return found | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
