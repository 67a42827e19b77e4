"""The live table of a rollout: what the operator says and what the users saw, as lines of text. Asks nobody."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from demo.users import Tally

_BAR = 20
_PHASE = 12
_WIDTH = 118


def variant(rollout: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Stable or Candidate as status has it; empty when there is none."""
    variants = (rollout.get("status") or {}).get("variants") or ()
    found: Mapping[str, Any] = next((each for each in variants if each["name"] == name and each.get("revision")), {})
    return found


def table(rollout: Mapping[str, Any], users: Tally, names: Mapping[str, str]) -> list[str]:
    """Phase and step, weight and mirror of both revisions, each metric, and what the users saw.

    names: what people call a revision, by the revision.
    """
    status = rollout.get("status") or {}
    lines = textwrap.wrap(_headline(rollout, status), _WIDTH, subsequent_indent=" " * _PHASE)
    lines += [_variant(variant(rollout, name), name, names) for name in ("Stable", "Candidate")]
    lines += [_metric(each) for each in status.get("analysis") or ()]
    lines.append(_users(users, names))
    return [line.rstrip()[:_WIDTH] for line in lines]


def _headline(rollout: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    steps = ((rollout.get("spec") or {}).get("strategy") or {}).get("steps") or ()
    step = status.get("step") or {}
    number = next((n for n, each in enumerate(steps, 1) if each.get("name") == step.get("name")), None)
    where = f"{number} of {len(steps)}: " if number else ""
    return f"{status.get('phase') or 'Pending':<{_PHASE}}{where}{step.get('message') or status.get('message') or ''}"


def _variant(found: Mapping[str, Any], name: str, names: Mapping[str, str]) -> str:
    if not found:
        return f"  {name.lower():<10}-"
    weight = int(found.get("weight") or 0)
    filled = round(_BAR * weight / 100)
    bar = "#" * filled + "." * (_BAR - filled)
    pods = f"{found.get('ready') or 0}/{found.get('replicas') or 0} pods"
    mirror = f"  copies {found['mirrorPercent']} %" if found.get("mirrorPercent") else ""
    return f"  {name.lower():<10}{_called(found['revision'], names):<22}{bar} {weight:>3} %  {pods}{mirror}"


def _metric(found: Mapping[str, Any]) -> str:
    bounds = "[{:.3f}, {:.3f}]".format(*found["interval"]) if found.get("interval") else ""
    value = "-" if found.get("value") is None else f"{found['value']:.3f}"
    samples = f"{found.get('samples') or 0} samples"
    why = "" if found.get("outcome") == "Successful" else str(found.get("reason") or "")
    return f"  {found.get('metric', ''):<10}{found.get('outcome') or '-':<15}{value:>7} {bounds:<16} {samples:<13}{why}"


def _users(users: Tally, names: Mapping[str, str]) -> str:
    answered = ", ".join(f"{_called(revision, names)} {count:,}" for revision, count in users.revisions.items())
    return f"  {'users':<10}{users.told}" + (f"; {answered}" if answered else "")


def _called(revision: str, names: Mapping[str, str]) -> str:
    return f"{names[revision]} ({revision[:6]})" if revision in names else revision or "nobody"


class Board:
    """Lines that are written over on a terminal; elsewhere a block for each change worth telling.

    Worth telling is what `key` says of it, and anything after `every` seconds. clock: seconds since the demo began.
    """

    def __init__(self, clock: Callable[[], float], stream: TextIO | None = None, every: float = 30.0) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._height = 0
        self._key: object = None
        self._at = -every

    def show(self, lines: Sequence[str], key: object = None) -> None:
        """Show a block in the place of the last one."""
        now = self._clock()
        if self._stream.isatty():
            up = f"\x1b[{self._height}A" if self._height else ""
            self._stream.write(up + "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J")
            self._height = len(lines)
        elif key != self._key or now - self._at >= self._every:
            self._stream.write("".join(f"{line}\n" for line in [f"[{now:6.0f}s]", *lines]))
            self._key, self._at = key, now
        self._stream.flush()

    def keep(self) -> None:
        """What stands there stays; the next block goes below it."""
        self._height, self._key = 0, None


def moved(rollout: Mapping[str, Any]) -> object:
    """What is worth a block of its own: phase, step, weights, mirror, outcomes."""
    status = rollout.get("status") or {}
    both = [variant(rollout, name) for name in ("Stable", "Candidate")]
    return (
        status.get("phase"),
        (status.get("step") or {}).get("name"),
        [(each.get("revision"), each.get("weight"), each.get("mirrorPercent")) for each in both],
        [(each.get("metric"), each.get("outcome")) for each in status.get("analysis") or ()],
    )
