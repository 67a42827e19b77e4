"""Leader election by a Lease: at most one process acts. Losing it is the end of the process.

The promise: a leader writes for at most `renew_deadline` after the start of its last successful renewal, and nobody
takes over before `duration - retry` after it. Settings keep the first below the second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.common.resources import LEASES
from rlhf_operator.errors import Conflict, KubeError, LeadershipLost, NotFound
from rlhf_operator.kube.client import KubeClient

logger = logging.getLogger(__name__)


def boot_seconds() -> float:
    """A clock that also runs while the machine sleeps: a Lease goes on ending then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """Which Lease, who we are, and for how long. Seconds.

    predecessor: an identity prefix that only processes before us in the same pod can have had; they are dead.
    """

    namespace: str
    name: str
    identity: str
    duration: int = 15
    renew_deadline: float = 10.0
    retry: float = 2.0
    predecessor: str | None = None


class Elector:
    """`acquire`, then `hold` until it raises LeadershipLost; `release` on a graceful stop.

    The client must be one of its own: a thousand writes in front of a renewal would be what loses the Lease.
    """

    def __init__(
        self,
        client: KubeClient,
        config: LeaseConfig,
        clock: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._lease: dict[str, Any] | None = None
        self._renewed_at = float("-inf")
        self._seen: tuple[object, object, object] | None = None
        self._seen_at = 0.0
        self._looked_at: float | None = None

    def holds(self) -> bool:
        """Whether writes are allowed now, by the clock and not by what was last heard."""
        return self._clock() < self._renewed_at + self._config.renew_deadline

    async def acquire(self) -> None:
        """Until the Lease is ours."""
        logger.info("waiting for the Lease %s/%s", self._config.namespace, self._config.name)
        while True:
            try:
                async with asyncio.timeout(self._config.renew_deadline):
                    if await self._try_acquire():
                        logger.info("holding the Lease %s/%s", self._config.namespace, self._config.name)
                        return
            except (KubeError, TimeoutError) as error:
                logger.warning("Lease %s/%s: %s", self._config.namespace, self._config.name, error or "no answer")
            await self._sleep(self._until_next_look())

    async def hold(self) -> None:
        """Renew until that fails. Raises LeadershipLost, always."""
        while True:
            await self._sleep(self._config.retry)
            try:
                async with asyncio.timeout(max(0.0, self._renewed_at + self._config.renew_deadline - self._clock())):
                    await self._renew()
            except (KubeError, TimeoutError) as error:
                if not self.holds():
                    self._renewed_at = float("-inf")
                    raise LeadershipLost(
                        f"Lease {self._config.name} not renewed for {self._config.renew_deadline} s: "
                        f"{error or 'no answer'}"
                    ) from error
                logger.warning("renewal of the Lease: %s; trying again", error or "no answer")

    async def release(self) -> None:
        """Give the Lease up, so that another need not wait for its end."""
        lease, held = self._lease, self.holds()
        self._renewed_at = float("-inf")
        if lease is None or not held:
            return
        try:
            async with asyncio.timeout(2.0):
                await self._client.replace(LEASES, self._body(lease, "", 1, lease["spec"].get("acquireTime")))
            logger.info("released the Lease %s/%s", self._config.namespace, self._config.name)
        except (KubeError, TimeoutError) as error:
            logger.warning("the Lease was not released: %s", error or "no answer")

    async def _try_acquire(self) -> bool:
        config = self._config
        started = self._clock()
        try:
            lease = await self._client.get(LEASES, config.namespace, config.name)
        except NotFound:
            body = self._body(None, config.identity, config.duration, _now())
            return await self._write(body, started, create=True)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if self._expired(spec, started) or not holder or self._is_predecessor(holder):
            return await self._write(self._body(lease, config.identity, config.duration, _now()), started)
        return False

    def _expired(self, spec: dict[str, Any], now: float) -> bool:
        """Whether the holder's time is over, judged by our own clock since its record last changed.

        It changed at some time after our last look: that look is the earliest it can have been, and the promise of
        this module holds with it.
        """
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen:
            self._seen = record
            self._seen_at = now if self._looked_at is None else max(self._looked_at, now - self._config.retry)
        self._looked_at = now
        return now >= self._ends_at(spec)

    def _ends_at(self, spec: dict[str, Any]) -> float:
        return self._seen_at + float(spec.get("leaseDurationSeconds") or self._config.duration)

    def _until_next_look(self) -> float:
        if self._seen is None or self._looked_at is None:
            return self._config.retry
        return min(self._config.retry, max(0.05, self._seen_at + self._config.duration - self._clock()))

    def _is_predecessor(self, holder: str) -> bool:
        prefix = self._config.predecessor
        return bool(prefix) and holder.startswith(prefix or "") and holder != self._config.identity

    async def _renew(self) -> None:
        started = self._clock()
        lease = self._lease
        if lease is None:
            raise LeadershipLost("the Lease was never acquired")
        body = self._body(lease, self._config.identity, self._config.duration, lease["spec"].get("acquireTime"))
        try:
            self._lease = await self._client.replace(LEASES, body)
        except (Conflict, NotFound):
            await self._look_again(started)
            return
        self._renewed_at = started

    async def _look_again(self, started: float) -> None:
        """After a conflict: ours with another annotation, or another's?"""
        try:
            lease = await self._client.get(LEASES, self._config.namespace, self._config.name)
        except NotFound:
            body = self._body(None, self._config.identity, self._config.duration, _now())
            if await self._write(body, started, create=True):
                return
            raise self._lost("another") from None
        holder = (lease.get("spec") or {}).get("holderIdentity") or ""
        if holder != self._config.identity:
            raise self._lost(holder)
        self._lease = lease
        await self._renew_once(lease, started)

    async def _renew_once(self, lease: dict[str, Any], started: float) -> None:
        body = self._body(lease, self._config.identity, self._config.duration, lease["spec"].get("acquireTime"))
        self._lease = await self._client.replace(LEASES, body)
        self._renewed_at = started

    def _lost(self, holder: str) -> LeadershipLost:
        self._renewed_at = float("-inf")
        return LeadershipLost(
            f"Lease {self._config.name} is held by {holder or 'nobody'}, not by {self._config.identity}"
        )

    async def _write(self, body: dict[str, Any], started: float, *, create: bool = False) -> bool:
        try:
            self._lease = await (self._client.create(LEASES, body) if create else self._client.replace(LEASES, body))
        except Conflict:
            return False
        self._renewed_at = started
        return True

    def _body(self, lease: dict[str, Any] | None, holder: str, duration: int, acquired: str | None) -> dict[str, Any]:
        """The Lease as it should be, at the version that was read."""
        metadata: dict[str, Any] = {"name": self._config.name, "namespace": self._config.namespace}
        transitions = 0
        if lease is not None:
            metadata = {k: v for k, v in lease["metadata"].items() if k != "managedFields"}
            former = lease.get("spec") or {}
            changed = bool(holder) and former.get("holderIdentity") != holder
            transitions = int(former.get("leaseTransitions") or 0) + changed
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration,
            "acquireTime": acquired,
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
