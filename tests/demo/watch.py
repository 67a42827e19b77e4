"""Follows one object from its status and tells it on one line. Reads only what every user can read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from demo.cluster import Cluster, ClusterError, Object, condition, is_true

_BAR = 20


def describe(job: Mapping[str, Any]) -> str:
    """Phase, step, reward, KL and time left of a status, on one line."""
    status = job.get("status") or {}
    progress = status.get("progress") or (status.get("run") or {}).get("progress") or {}
    parts = [f"{status.get('phase') or 'Pending':<11}"]
    if progress.get("steps"):
        step, steps = progress.get("step") or 0, progress["steps"]
        filled = _BAR * step // steps
        parts.append(f"[{'#' * filled}{'.' * (_BAR - filled)}] step {step}/{steps}")
        for name, label in (("reward", "reward"), ("kl", "KL")):
            if progress.get(name) is not None:
                parts.append(f"{label} {progress[name]:.3f}")
        if progress.get("etaSeconds") and step < steps:
            parts.append(f"{progress['etaSeconds']:.0f} s left")
        if step == steps and status.get("message"):
            parts.append(str(status["message"]))
    elif status.get("message"):
        parts.append(str(status["message"]))
    return "  ".join(parts)


class Line:
    """One line that is written over on a terminal; elsewhere a line for each change, at most one in `every` seconds."""

    def __init__(
        self, stream: TextIO | None = None, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self._start = clock()
        self._shown = ""
        self._at = -every

    def show(self, text: str, *, last: bool = False) -> None:
        """Show a text; the last one always appears and ends the line."""
        now = self._clock() - self._start
        stamped = f"[{now:6.0f}s] {text}"
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{stamped[:160]}" + ("\n" if last else ""))
        elif last or (text != self._shown and now - self._at >= self._every):
            self._stream.write(stamped + "\n")
            self._shown, self._at = text, now
        self._stream.flush()


def follow(
    cluster: Cluster,
    name: str,
    timeout_seconds: float,
    line: Line,
    on_reading: Callable[[Object], None] = lambda _: None,
    interval_seconds: float = 1.5,
    kind: str = "RLHFJob",
    end: str = "Complete",
) -> Object:
    """Watch until an object's condition `end` is True and nothing is under way, and return it.

    Raises ClusterError when it fails, stalls, or takes too long.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        job = cluster.get(f"{kind.lower()}s.rlhf.dev", name)
        if job is None:
            raise ClusterError(f"{kind} {name} was deleted while it was watched")
        on_reading(job)
        done = is_true(job, end) and not is_true(job, "Reconciling")
        bad = next((each for each in ("Failed", "Stalled") if is_true(job, each)), None)
        line.show(describe(job), last=bool(done or bad))
        if done:
            return job
        if bad:
            found = condition(job, bad) or {}
            raise ClusterError(f"{kind} {name} is {bad}: {found.get('reason')}: {found.get('message')}")
        if time.monotonic() >= deadline:
            raise ClusterError(f"{kind} {name} was not {end} within {timeout_seconds:.0f} s: {describe(job)}")
        time.sleep(interval_seconds)
