"""Everything of one serving process that requests share: counters, settings, keys, judges, recorder. No HTTP here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from rlhf_operator.api.signals import LiveSample, Role, SignalSettings

from .asgi import App
from .exchange import Exchange, Recorder, share
from .judges import Judges
from .metrics import Metrics
from .recording import recording_of
from .samples import sample_of
from .settings import PodSettings, SignalsFile
from .tokens import Claims, KeyFile, make_token

_log = logging.getLogger(__name__)


class Pod:
    """One serving process. `start` and `close` on the server's loop."""

    def __init__(self, settings: PodSettings, recorder: Recorder | None = None) -> None:
        """Read what never changes. Raises OSError, ValueError: a revision without its prompt must not serve."""
        self.settings = settings
        self.system_prompt = settings.system_prompt()
        self.metrics = Metrics(settings.namespace, settings.rollout, settings.revision)
        self.recorder = recorder
        self.file = SignalsFile(settings.signals_file, settings.poll_seconds)
        self.draining = False
        """The pod is about to end: copies are no longer taken."""
        self.in_flight = {Role.LIVE: 0, Role.SHADOW: 0}
        self._keys = KeyFile(settings.feedback_key) if settings.feedback_key.exists() else None
        self._samples_keys = KeyFile(settings.samples_key) if settings.samples_key.exists() else None
        self._session_key = settings.pseudonym_key.read_bytes().strip() if settings.pseudonym_key.exists() else b""
        self._expect: Callable[[Mapping[str, str]], None] | None = None
        self._judges: Judges | None = None
        self._judge_url: str | None = None
        self._following: asyncio.Task[None] | None = None
        self.metrics.watch(lambda: self.in_flight[Role.SHADOW], lambda: self.file.stale)

    def record(self) -> App | None:
        """Record where this is a pod of a rollout; the app that takes feedback. Raises OSError, ValueError."""
        recording = recording_of(self.settings, self.metrics.registry, lambda: self.signals)
        if recording is None:
            return None
        self.recorder, self._expect = recording.recorder, recording.metrics.expect
        return recording.feedback

    @property
    def signals(self) -> SignalSettings:
        """The settings in force."""
        return self.file.current

    async def start(self) -> None:
        """Read the settings, begin to judge and record."""
        self.file.look()
        await self._apply()
        if self.recorder is not None:
            await self.recorder.start()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """End everything that was begun."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        if self._judges is not None:
            await self._judges.close()
        if self.recorder is not None:
            await self.recorder.close()

    def sheds(self) -> bool:
        """Whether one more copy would be too many."""
        return self.draining or self.in_flight[Role.SHADOW] >= self.signals.max_concurrent_shadows

    def feedback_token(self, request_id: str, slices: dict[str, str]) -> str:
        """Proof of an answer; empty when there is no key."""
        if self._keys is None:
            return ""
        if self._expect is not None:
            self._expect(slices)
        expires_at = int(time.time() + self.signals.feedback_seconds)
        return make_token(self._keys.keys(), Claims(request_id, self.settings.revision, expires_at, slices))

    def wants(self, request_id: str) -> bool:
        """Whether a judge or the record takes this request: only then its texts are looked at."""
        return self._judged(request_id) or self._recorded(request_id)

    def take(self, exchange: Exchange) -> None:
        """Hand a finished exchange on. Never waits, never raises."""
        try:
            if self._judges is not None and self._judged(exchange.request_id):
                sample = sample_of(exchange, self._session_key)
                if sample is not None:
                    self._judges.offer(sample)
            if self.recorder is not None and self._recorded(exchange.request_id):
                self.recorder.offer(exchange)
        except Exception:
            # A defect here is ours, and must not become the user's.
            self.metrics.sample_dropped(exchange.role, "defect")
            _log.exception("an answer could not be handed on")

    def _judged(self, request_id: str) -> bool:
        settings = self.signals
        return self._judges is not None and share(request_id) < settings.judge_sample_rate

    def _recorded(self, request_id: str) -> bool:
        return self.recorder is not None and share(request_id) < self.signals.trajectory_sample_rate

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll_seconds)
            try:
                if await asyncio.to_thread(self.file.look):
                    await self._apply()
            except Exception:
                _log.exception("settings could not be applied")

    async def _apply(self) -> None:
        self.metrics.allow(self.signals.slices)
        if self.signals.judge != self._judge_url:
            former, self._judges = self._judges, None
            self._judge_url = self.signals.judge
            if former is not None:
                await former.close()
            if self._judge_url is not None:
                self._judges = Judges(self._judge_url, self._dropped, keys=self._keys_for_judges)
                self._judges.start()

    def _keys_for_judges(self) -> Sequence[bytes]:
        return self._samples_keys.keys() if self._samples_keys is not None else ()

    def _dropped(self, sample: LiveSample, reason: str) -> None:
        self.metrics.sample_dropped(sample.role, reason)
