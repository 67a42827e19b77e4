"""Puts it together: changes wake keys, workers take keys, controllers decide, the executor writes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.intents import Manifest, Plan
from rlhf_operator.common.mentions import ANY
from rlhf_operator.common.reader import Controller, Reader, ReadFailed
from rlhf_operator.common.resources import JOBS, RLHF_GROUP, Resource
from rlhf_operator.errors import Conflict, Fenced, KubeError
from rlhf_operator.kube.reflector import Reflector
from rlhf_operator.kube.store import Entry, ObjectKey, decode
from rlhf_operator.runtime.caches import Caches
from rlhf_operator.runtime.executor import Executor, WriteRefused, is_paused
from rlhf_operator.runtime.logs import current_object
from rlhf_operator.runtime.metrics import Metrics
from rlhf_operator.runtime.queue import KeyedQueue

logger = logging.getLogger(__name__)

# A Job that starts changes five times within a moment, its pods as often: one look afterwards sees it all.
_SETTLE_SECONDS = 0.1
# After a status write the next pass may have something to do that waited for it. Where children have just been made, a
# change of theirs comes first, and that pass answers for both.
_AFTER_STATUS_SECONDS = 1.0
# A status that is another one in every pass must not make that a loop: after so many, each comes twice as late as the
# one before. It always comes: nothing else would wake what waits for its record.
_PASSES_IN_A_ROW = 3
_LONGEST_AFTER_STATUS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Key:
    """What the queue is keyed by."""

    kind: str
    namespace: str
    name: str


class Manager:
    """Queue and workers over caches that others fill."""

    def __init__(
        self,
        controllers: Sequence[Controller[Any]],
        queue: KeyedQueue[Key],
        metrics: Metrics,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._controllers = {controller.resource.kind: controller for controller in controllers}
        self._queue = queue
        self._metrics = metrics
        self._today = today
        self._caches: Caches | None = None
        self._reader: Reader | None = None
        self._executor: Executor | None = None
        self._started: set[str] = set()
        self._passes: dict[Key, int] = {}

    def connect(self, caches: Caches, reader: Reader, executor: Executor) -> None:
        """Give the manager what it reads from and writes with; before anything runs."""
        self._caches, self._reader, self._executor = caches, reader, executor

    @property
    def started(self) -> set[str]:
        """Kinds whose caches were all filled: theirs are reconciled."""
        return self._started

    def changed(self, resource: Resource, key: ObjectKey, entry: Entry) -> None:
        """An object came, changed or went: wake its key, or its owner's."""
        for mentioned, name in entry.mentions:
            if mentioned in self._controllers and name != ANY:
                self._poke(Key(mentioned, key[0], name), _SETTLE_SECONDS)
        served = resource.kind in self._controllers and self._controllers[resource.kind].resource == resource
        if served:
            self._poke(Key(resource.kind, *key))
        if served or resource.group == RLHF_GROUP:
            # Also where another operator serves that kind: ours wait for what it makes.
            self._poke_those_who_mention(resource.kind, key)
            return
        kind, owner = entry.owner_kind, entry.owner_name
        if kind is None or owner is None:
            kind, owner = self._owner_through_job(entry)
        if kind is not None and kind in self._controllers and owner is not None:
            self._poke(Key(kind, key[0], owner), _SETTLE_SECONDS)

    def _poke_those_who_mention(self, kind: str, key: ObjectKey) -> None:
        """An object of ours has changed: wake those that wait for it."""
        stores = self._connected()[0].stores
        for controller in self._controllers.values():
            store = stores[controller.resource]
            for other in {*store.mentioning(key[0], (kind, key[1])), *store.mentioning(key[0], (kind, ANY))}:
                if (controller.resource.kind, other) != (kind, key):
                    self._poke(Key(controller.resource.kind, *other), _SETTLE_SECONDS)

    def state_changed(self, reflector: Reflector) -> None:
        """A watch was filled or failed: start the kinds that can be observed now."""
        caches = self._connected()[0]
        for kind, controller in self._controllers.items():
            if kind not in self._started and caches.ready(controller):
                self._started.add(kind)
                logger.info("reconciling %s", controller.resource)
                for namespace, name in caches.stores[controller.resource]:
                    self._queue.add(Key(kind, namespace, name))

    async def work(self) -> None:
        """One worker, until the queue is closed."""
        while (key := await self._queue.get()) is not None:
            token = current_object.set({"kind": key.kind, "namespace": key.namespace, "name": key.name})
            started = time.monotonic()
            try:
                outcome = await self._reconcile(key)
            except asyncio.CancelledError:
                self._queue.drop(key)
                raise
            finally:
                current_object.reset(token)
            self._metrics.reconciles.labels(key.kind, outcome).observe(time.monotonic() - started)
            # A look that had nothing to write has waited for nothing: a thousand of them would keep the Lease's renewal
            # and the health probes from their turn.
            await asyncio.sleep(0)

    async def _reconcile(self, key: Key) -> str:
        """One reconcile, from the cache to the last write. Returns its outcome for the metric; raises nothing."""
        caches, reader, executor = self._connected()
        controller = self._controllers[key.kind]
        entry = caches.stores[controller.resource].entry((key.namespace, key.name))
        if entry is None:
            self._passes.pop(key, None)
            self._queue.drop(key)
            return "gone"
        obj: Manifest = decode(entry)
        if obj["metadata"].get("deletionTimestamp"):
            # Owner references do the rest, with or without us.
            self._queue.done(key)
            return "deleting"
        try:
            if is_paused(obj):
                executor.paused(obj)
                self._queue.done(key)
                return "paused"
            return await self._observe_decide_act(key, controller, obj, reader, executor)
        except ReadFailed as error:
            self._later(key, "read failed", error)
            return "read_failed"
        except Conflict as error:
            self._later(key, "an older version was read", error, level=logging.DEBUG)
            return "conflict"
        except (KubeError, Fenced) as error:
            self._later(key, "write failed", error)
            return "write_failed"
        except Exception:
            logger.exception("reconcile failed")
            self._later(key, "reconcile failed", None)
            return "error"

    async def _observe_decide_act(
        self, key: Key, controller: Controller[Any], obj: Manifest, reader: Reader, executor: Executor
    ) -> str:
        observed = await controller.observe(obj, reader)
        now = self._today()
        plan = controller.reconcile(observed, now)
        try:
            written = await executor.execute(obj, plan)
        except WriteRefused as error:
            told = controller.write_failed(observed, now, error.failure)
            await executor.report(obj, told)
            if error.failure.retriable:
                self._later(key, f"{error.failure.action} of {error.failure.resource} refused", error)
            else:
                logger.warning("%s of %s refused: %s", error.failure.action, error.failure.resource, error)
                # The plan that was refused says nothing of when to try again.
                self._queue.done(key, self._seconds_until(told))
            return "refused"
        self._queue.done(key, self._next_pass(key, written, self._seconds_until(plan)))
        return "ok"

    def _next_pass(self, key: Key, written: bool, seconds: float | None) -> float | None:
        """When to look again: our own status write comes back by the watch without waking anybody."""
        passes = self._passes.pop(key, 0) + 1
        if not written:
            return seconds
        self._passes[key] = passes
        after = _AFTER_STATUS_SECONDS * 2.0 ** min(max(0, passes - _PASSES_IN_A_ROW), 60)
        return min(after, _LONGEST_AFTER_STATUS_SECONDS, seconds if seconds is not None else after)

    def _seconds_until(self, plan: Plan) -> float | None:
        if plan.wake_at is None:
            return None
        return max(0.0, (plan.wake_at - self._today()).total_seconds())

    def _later(self, key: Key, what: str, error: Exception | None, level: int = logging.WARNING) -> None:
        delay = self._queue.failed(key)
        logger.log(level, "%s: %s; again in %.1f s", what, error if error is not None else "see above", delay)

    def _poke(self, key: Key, after: float = 0.0) -> None:
        # Before its caches are filled a kind has no queue: it is queued whole once they are.
        if key.kind not in self._started:
            return
        # What others change is no loop of ours.
        self._passes.pop(key, None)
        if after:
            self._queue.add_after(key, after)
        else:
            self._queue.add(key)

    def _owner_through_job(self, entry: Entry) -> tuple[str | None, str | None]:
        """The owner of an object that names one of our Jobs as its owner, as Kueue's Workloads do."""
        jobs = self._connected()[0].stores.get(JOBS)
        for uid in entry.owners if jobs is not None else ():
            job = jobs.by_uid(uid) if jobs is not None else None
            if job is not None:
                return job.owner_kind, job.owner_name
        return None, None

    def _connected(self) -> tuple[Caches, Reader, Executor]:
        if self._caches is None or self._reader is None or self._executor is None:
            raise RuntimeError("connect() comes before everything else")
        return self._caches, self._reader, self._executor
