"""Whether the judge may answer: only while the engine gives the scores that the version had when it was evaluated."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_operator.api.scorerfile import Probe

from .engine import Engine, EngineAway, NoScore, Scored
from .errors import Unavailable
from .schema import ScoreItem

STARTING = "Starting"
PROBE_MISMATCH = "ProbeMismatch"
DRAINING = "Draining"
_RETRY_SECONDS = 5
_PROBES_AT_ONCE = 16
_MISMATCH_POLLS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why not: a word for machines, a sentence for people."""

    reason: str
    message: str


def compare(probes: Sequence[Probe], scored: Sequence[Scored], tolerance: float) -> str | None:
    """The first probe, from 1, that does not score as it did: which, expected, got. None when all do."""
    for number, (probe, now) in enumerate(zip(probes, scored, strict=True), start=1):
        if isinstance(now, NoScore):
            if probe.scores:
                return f"probe {number} has no score: {now.reason}"
            continue
        for dimension, expected in probe.scores.items():
            got = now.get(dimension, math.nan)
            # Written so that a score that is no number differs.
            if not abs(got - expected) <= tolerance:
                return f"probe {number} scored {got:.6g} on {dimension} instead of {expected:.6g} (± {tolerance:g})"
    return None


class Readiness:
    """Follows the engine: probes it at the start and after every outage, and lets no score through in between."""

    def __init__(
        self,
        engine: Engine,
        probes: Sequence[Probe],
        tolerance: float,
        poll_seconds: float,
        changed: Callable[[bool], None] = lambda ready: None,
    ) -> None:
        self._engine = engine
        self._probes = probes
        self._tolerance = tolerance
        self._poll_seconds = poll_seconds
        self._changed = changed
        self._state: NotReady | None = NotReady(STARTING, "the probes have not been scored yet")
        self._outages = 0
        self._draining = False
        self._wake = asyncio.Event()

    @property
    def state(self) -> NotReady | None:
        """Why the judge is not ready; None when it is."""
        if self._draining:
            return NotReady(DRAINING, "this pod is about to end")
        return self._state

    def drain(self) -> None:
        """Say no from now on, though requests that still come are answered."""
        self._draining = True

    async def score(self, items: Sequence[ScoreItem]) -> list[Scored]:
        """The engine's scores, if it was as it should be before and after. Raises Unavailable."""
        if self._state is not None:
            raise unavailable(self._state)
        outages = self._outages
        try:
            scored = await self._engine.score(items)
        except EngineAway as error:
            if outages == self._outages:
                self._outage(error)
            raise unavailable(NotReady(error.reason, error.message)) from error
        if outages != self._outages:
            raise Unavailable("the engine went away meanwhile", reason="EngineAway", retry_after_seconds=_RETRY_SECONDS)
        return scored

    async def follow(self) -> None:
        """Watch the engine for ever."""
        while True:
            await self._look()
            # A mismatch is mended by another engine only: no need to keep this one busy with probes.
            mismatch = self._state is not None and self._state.reason == PROBE_MISMATCH
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_seconds * (_MISMATCH_POLLS if mismatch else 1))
            self._wake.clear()

    async def _look(self) -> None:
        try:
            await self._engine.check()
            if self._state is None:
                return
            difference = await self._probe()
        except EngineAway as error:
            self._outage(error)
            return
        except Exception as error:
            # Nobody else would notice: without this task the judge would stay ready whatever becomes of the engine.
            _log.exception("following the engine failed")
            self._outage(EngineAway(f"the judge failed with {type(error).__name__}", reason="InternalError"))
            return
        if difference is None:
            self._become(None)
        else:
            self._become(
                NotReady(
                    PROBE_MISMATCH,
                    f"{difference}: head, activation, temperature, tokenizer or weights are not those that were "
                    "evaluated",
                )
            )

    async def _probe(self) -> str | None:
        scored: list[Scored] = []
        for start in range(0, len(self._probes), _PROBES_AT_ONCE):
            part = self._probes[start : start + _PROBES_AT_ONCE]
            scored += await self._engine.score(
                [ScoreItem(prompt=probe.prompt, response=probe.response) for probe in part]
            )
        return compare(self._probes, scored, self._tolerance)

    def _outage(self, error: EngineAway) -> None:
        if self._state is None:
            self._outages += 1
            self._wake.set()
        self._become(NotReady(error.reason, error.message))

    def _become(self, state: NotReady | None) -> None:
        if state == self._state:
            return
        self._state = state
        self._changed(state is None)
        if state is None:
            _log.info("ready: every probe scores as it did at evaluation", extra={"probes": len(self._probes)})
        else:
            _log.warning("not ready", extra={"reason": state.reason, "detail": state.message})


def unavailable(state: NotReady) -> Unavailable:
    """The answer to a request while the judge is not ready."""
    return Unavailable(state.message, reason=state.reason, retry_after_seconds=_RETRY_SECONDS)
