"""The live judge without its HTTP: samples in, pairs and answers to the lanes, counts out, the plan followed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from rlhf_operator.api.signals import JUDGE_INFO, JudgePlan, LiveSample, LiveScorer
from rlhf_server.judge.errors import QueueFull, RequestInvalid, Unavailable
from rlhf_server.live.tokens import KeyFile

from .asking import Found, Work, reads_pairs
from .journal import Journal
from .lanes import Lane, LaneSettings, Unscored
from .ledger import Ledger, expose
from .metrics import CONVERSATION, ONE_SIDED, TOO_LARGE, Counts, Gauges, families
from .pairing import ONE_SIDED as ONE_SIDED_ENDS
from .pairing import Arrival, Conversations, Pair, Pairing, size_of
from .planfile import PlanFile
from .settings import Settings

_LABEL = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_SESSION_CHARACTERS = 128
_FINISH_CHARACTERS = 64
_TICK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class LiveJudge:
    """One judge. Everything but the scorers runs on one event loop, so nothing here needs a lock."""

    def __init__(self, settings: Settings) -> None:
        """Raises OSError, ValueError: without a key nobody could be told from anybody."""
        self.settings = settings
        self.keys = KeyFile(settings.keys).keys
        self.draining = False
        self._file = PlanFile(settings.plan)
        self._plan: JudgePlan | None = None
        self._lanes: dict[str, Lane] = {}
        self._counts = Counts(Ledger(families(), series=settings.series))
        self._pairing = Pairing(
            halves=settings.halves, halves_bytes=settings.halves_bytes, remembered=settings.remembered
        )
        self._conversations = Conversations(settings.remembered)
        self._journal = Journal(settings.state, keep=settings.remembered)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the plan and let the lanes work."""
        await self._follow_plan()
        following = [asyncio.create_task(self._keep_following()), asyncio.create_task(self._keep_expiring())]
        try:
            yield
        finally:
            for task in following:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            for lane in self._lanes.values():
                await lane.close()

    @property
    def queued(self) -> int:
        """Answers and pairs that wait for a verdict."""
        return sum(lane.size for lane in self._lanes.values())

    @property
    def trouble(self) -> str:
        """Why nothing can be judged; empty when something can."""
        if self.draining:
            return "the judge is ending"
        if self._plan is None:
            return self._file.trouble
        lanes = self._lanes.values()
        if lanes and all(lane.trouble for lane in lanes):
            # One scorer that answers is enough: what the others would have said is counted as unscored.
            return "no scorer answers: " + "; ".join(f"{lane.scorer.name}: {lane.trouble}" for lane in lanes)
        return ""

    def take(self, samples: Sequence[LiveSample]) -> None:
        """Take all of them, or none. Raises Refusal."""
        if self.draining:
            raise Unavailable("the judge is ending", reason="Draining", retry_after_seconds=1)
        if self._plan is None:
            raise Unavailable(self._file.trouble, reason="NoPlan", retry_after_seconds=5)
        sizes = [_checked_size(number, sample) for number, sample in enumerate(samples)]
        lanes = list(self._lanes.values())
        if lanes and not any(lane.has_room(len(samples), sum(sizes)) for lane in lanes):
            raise QueueFull(
                f"{self.queued} answers wait for scorers already: come again later",
                retry_after_seconds=min(lane.retry_after_seconds() for lane in lanes),
            )
        for sample, size in zip(samples, sizes, strict=True):
            self._take(self._plan, sample, size)

    def answered(self, code: int) -> None:
        """Count a request to /v1/samples."""
        self._counts.answered(code)

    def expose(self) -> bytes:
        """The text format of every metric. What has not been shown before is shown as 0 and counted from now on."""
        return expose(self._counts.ledger, Gauges(self._figures()))

    def _take(self, plan: JudgePlan, sample: LiveSample, size: int) -> None:
        if size > self.settings.max_sample_bytes:
            # One long conversation must not cost the others of its batch their verdicts.
            self._counts.left_out(TOO_LARGE)
            return
        now = time.monotonic()
        paired = any(reads_pairs(scorer) for scorer in plan.scorers)
        taken = self._pairing.take(sample, now, pairs=paired)
        self._counts.arrived(taken.arrival)
        if taken.arrival is Arrival.NEW:
            self._counts.begin(sample)
        for unpaired in taken.unpaired:
            self._counts.unpaired(unpaired)
        if taken.arrival is not Arrival.NEW:
            return
        self._offer(self._singles(sample), sample, size, now)
        if taken.pair is not None:
            pair = taken.pair
            self._offer(self._pairs(pair), pair, size_of(pair.live) + size_of(pair.shadow), now)

    def _singles(self, sample: LiveSample) -> list[Lane]:
        """The lanes that judge this answer by itself."""
        lanes = [lane for lane in self._lanes.values() if not reads_pairs(lane.scorer)]
        if not lanes:
            return []
        if sample.finish_reason in ONE_SIDED_ENDS:
            self._counts.left_out(ONE_SIDED)
            return []
        return lanes if self._first(sample.session, (sample.revision, sample.role.value)) else []

    def _pairs(self, pair: Pair) -> list[Lane]:
        lanes = [lane for lane in self._lanes.values() if reads_pairs(lane.scorer)]
        what = ("pair", pair.live.revision, pair.shadow.revision)
        return lanes if lanes and self._first(pair.live.session or pair.shadow.session, what) else []

    def _first(self, session: str, what: tuple[str, ...]) -> bool:
        window = self._plan.pair_seconds if self._plan is not None else 1.0
        first = self._conversations.first(session, what, time.time(), window)
        if not first:
            self._counts.left_out(CONVERSATION)
        return first

    def _offer(self, lanes: Sequence[Lane], work: Work, size: int, now: float) -> None:
        for lane in lanes:
            lane.offer(work, size, now)

    def _counted(self, scorer: LiveScorer, work: Work, found: Found) -> None:
        now = time.time()
        for sample in (work.live, work.shadow) if isinstance(work, Pair) else (work,):
            self._journal.note(sample, now)
        self._counts.judged(scorer, work, found)

    def _lost(self, scorer: LiveScorer, work: Work, why: Unscored) -> None:
        self._counts.unscored(scorer, why)

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(self.settings.plan_poll_seconds)
            await self._follow_plan()

    async def _follow_plan(self) -> None:
        before = self._file.trouble
        plan = await asyncio.to_thread(self._file.changed)
        if plan is not None:
            await self._use(plan)
        elif self._file.trouble not in ("", before):
            _log.warning("the plan can't be used", extra={"why": self._file.trouble})

    async def _keep_expiring(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._plan is None:
                continue
            for unpaired in self._pairing.expire(time.monotonic() - self._plan.pair_seconds):
                self._counts.unpaired(unpaired)

    async def _use(self, plan: JudgePlan) -> None:
        """Judge by this plan from now on; scorers that stay as they were go on as they are."""
        if self._plan is None:
            for key, role, print_ in self._journal.load(time.time() - plan.pair_seconds):
                self._pairing.remember(key, role, print_, time.monotonic())
        lanes = {name: lane for name, lane in self._lanes.items() if lane.scorer in plan.scorers}
        gone = [lane for name, lane in self._lanes.items() if name not in lanes]
        for scorer in plan.scorers:
            if scorer.name not in lanes:
                lanes[scorer.name] = self._lane(scorer, plan)
        for lane in lanes.values():
            lane.keep_seconds = plan.pair_seconds
            lane.limit_bytes = self.settings.queue_bytes // len(lanes)
        self._plan, self._lanes = plan, lanes
        self._counts.plan = plan
        _log.info("judging", extra={"rollout": plan.rollout, "scorers": len(lanes)})
        for lane in gone:
            await lane.close()

    def _lane(self, scorer: LiveScorer, plan: JudgePlan) -> Lane:
        chosen = self.settings
        settings = LaneSettings(chosen.queue_samples, chosen.batch, chosen.ask_seconds, chosen.retry_seconds)
        lane = Lane(scorer, settings, plan.pair_seconds, self._counted, self._lost)
        lane.start()
        return lane

    def _figures(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        plan = self._plan or JudgePlan(namespace="", rollout="")
        own = {"rlhf_namespace": plan.namespace, "rlhf_rollout": plan.rollout}
        lanes = list(self._lanes.values())
        for lane in lanes:
            if lane.version:
                labels = {**own, "scorer": lane.scorer.name, "version": lane.version}
                yield JUDGE_INFO, "Which version of the scorer judges", labels, 1.0
        for lane in lanes:
            labels = {**own, "scorer": lane.scorer.name}
            yield "rlhf_live_judge_scorer_up", "1 while the scorer answers", labels, float(not lane.trouble)
        for lane in lanes:
            labels = {**own, "scorer": lane.scorer.name}
            yield "rlhf_live_judge_queue_depth", "Answers and pairs that wait for a verdict", labels, lane.size
        for lane in lanes:
            labels = {**own, "scorer": lane.scorer.name}
            yield "rlhf_live_judge_queue_bytes", "Size of what waits for a verdict", labels, lane.bytes
        yield "rlhf_live_judge_halves", "Answers that wait for their other half", own, self._pairing.waiting
        yield "rlhf_live_judge_halves_bytes", "Their size", own, self._pairing.waiting_bytes
        yield "rlhf_live_judge_plan_valid", "0 while judge.json can't be used", own, float(not self._file.trouble)
        left_out = self._counts.ledger.left_out
        yield "rlhf_live_judge_series_left_out", "Counts of series beyond the limit", own, left_out


def _checked_size(number: int, sample: LiveSample) -> int:
    """The sample's size in bytes. Raises RequestInvalid for one that no serving pod sends."""
    for name, value in (("revision", sample.revision), ("served", sample.served or "none")):
        if not _LABEL.fullmatch(value):
            raise RequestInvalid(f"samples.{number}.{name} is no name of a revision")
    if len(sample.session) > _SESSION_CHARACTERS or len(sample.finish_reason) > _FINISH_CHARACTERS:
        raise RequestInvalid(f"samples.{number}: session or finishReason is too long")
    return size_of(sample)
