"""The operator as one object: builds client, caches, queue, workers and election, runs them, stops them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import aiohttp

from rlhf_operator.common.reader import Controller
from rlhf_operator.errors import LeadershipLost
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.credentials import Credentials
from rlhf_operator.kube.reflector import WatchTimes
from rlhf_operator.prometheus.client import PrometheusClient
from rlhf_operator.runtime.caches import Caches
from rlhf_operator.runtime.events import Recorder
from rlhf_operator.runtime.executor import Executor
from rlhf_operator.runtime.health import HealthServer
from rlhf_operator.runtime.lease import Elector, LeaseConfig
from rlhf_operator.runtime.manager import Key, Manager
from rlhf_operator.runtime.metrics import Metrics, StateCollector
from rlhf_operator.runtime.queue import KeyedQueue
from rlhf_operator.runtime.reader import CachedReader
from rlhf_operator.runtime.schedule import Backoff, Schedule
from rlhf_operator.runtime.version import wait_for_server
from rlhf_operator.settings import Settings

logger = logging.getLogger(__name__)


class Operator:
    """`start`, then `run` until it returns (stopped) or raises; `stop` drains, releases the Lease, closes."""

    def __init__(self, settings: Settings, credentials: Credentials, controllers: Sequence[Controller[Any]]) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._state = StateCollector()
        self._metrics.registry.register(self._state)
        observer = self._metrics.observe_call
        self._client = KubeClient(credentials, observer=observer)
        # One connection that no reconcile can crowd out, and that may write without holding the Lease.
        self._lease_client = KubeClient(credentials, observer=observer, connections=2, timeout_seconds=5.0)
        self._queue: KeyedQueue[Key] = KeyedQueue(
            Schedule(Backoff(settings.backoff_base_seconds, settings.backoff_max_seconds))
        )
        self._manager = Manager(controllers, self._queue, self._metrics)
        self._caches = Caches(
            self._client,
            controllers,
            settings.namespaces,
            WatchTimes(
                settings.watch_timeout_seconds, settings.watch_silence_seconds, settings.watch_unhealthy_seconds
            ),
            self._manager.changed,
            self._manager.state_changed,
        )
        self._recorder = Recorder(self._client, settings.identity, dropped=self._metrics.events_dropped.inc)
        self._elector = Elector(self._lease_client, _lease_config(settings))
        self._health = HealthServer(self._metrics, lambda: self._caches.reflectors, lambda: self._starting)
        self._starting = "waiting for the API server"
        self._pods: aiohttp.ClientSession | None = None
        self._prometheus = PrometheusClient(settings.analysis_addresses(), observer=self._metrics.observe_query)
        self._tasks: list[asyncio.Task[None]] = []
        self._state.reflectors = self._caches.reflectors
        self._state.primaries = [self._caches.stores[controller.resource] for controller in controllers]
        self._state.depth = lambda: self._queue.depth
        self._state.delayed = lambda: self._queue.delayed
        self._state.working = lambda: self._queue.working

    async def start(self) -> None:
        """Listen for probes, then wait for an API server that is new enough."""
        settings = self._settings
        port = await self._health.start(settings.health_host, settings.health_port, settings.health_port_file)
        logger.info("probes and metrics at port %d", port)
        await self._client.__aenter__()
        await self._lease_client.__aenter__()
        self._pods = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        await self._prometheus.__aenter__()
        version = await wait_for_server(self._client)
        self._starting = ""
        logger.info("API server %s, identity %s", version, settings.identity)
        reader = CachedReader(self._client, self._caches, self._pods, self._prometheus)
        executor = Executor(self._client, self._caches.stores, self._recorder)
        self._manager.connect(self._caches, reader, executor)

    async def run(self) -> None:
        """Watch at once, act once the Lease is held. Raises LeadershipLost, or what broke a task that must not end."""
        # A standby keeps its caches warm: taking over costs no list.
        self._tasks.append(asyncio.create_task(self._caches.run(), name="watches"))
        if self._settings.leader_election:
            self._client.may_write = self._elector.holds
            acquiring = asyncio.create_task(self._elector.acquire(), name="election")
            await self._first(acquiring)
            self._tasks.append(asyncio.create_task(self._elector.hold(), name="election"))
        self._metrics.leader.set(1)
        self._tasks.append(asyncio.create_task(self._recorder.run(), name="events"))
        workers = [asyncio.create_task(self._manager.work(), name=f"worker {n}") for n in range(self._settings.workers)]
        self._tasks += workers
        await self._first(*workers)

    async def stop(self) -> None:
        """Finish what is in work, give the Lease up, close. What is not finished in time is cut off."""
        self._queue.close()
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._queue.drained()
                if any(task.get_name() == "events" and not task.done() for task in self._tasks):
                    await self._recorder.drained()
        except TimeoutError:
            logger.warning("not finished in time: %d reconciles, or events", self._queue.working)
        self._client.may_write = lambda: False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._metrics.leader.set(0)
        if self._settings.leader_election:
            await self._elector.release()
        await self._client.close()
        await self._lease_client.close()
        if self._pods is not None:
            await self._pods.close()
        await self._prometheus.close()
        await self._health.stop()

    async def _first(self, *tasks: asyncio.Task[None]) -> None:
        """Until one of these ends well; raises what ends any of the tasks that must not end."""
        done, _ = await asyncio.wait({*tasks, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            try:
                task.result()
            except LeadershipLost:
                # Nothing more may leave this process, what is in flight included.
                self._client.may_write = lambda: False
                await self._client.close()
                raise


def _lease_config(settings: Settings) -> LeaseConfig:
    return LeaseConfig(
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=settings.identity,
        duration=settings.lease_duration_seconds,
        renew_deadline=settings.lease_renew_deadline_seconds,
        retry=settings.lease_retry_seconds,
        predecessor=settings.predecessor,
    )
