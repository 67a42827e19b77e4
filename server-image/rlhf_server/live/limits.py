"""Token buckets: how often somebody may do something. No clock of its own, so that tests have theirs."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable


class Rates:
    """One bucket per key, the least recently used ones forgotten first."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float], *, keys: int = 10_000) -> None:
        self._per_second, self._burst, self._clock, self._keys = per_second, burst, clock, keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """0 when it is allowed and counted; otherwise in how many seconds it will be."""
        now = self._clock()
        level, since = self._buckets.pop(key, (float(self._burst), now))
        level = min(self._burst, level + (now - since) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[key] = (level - 1 if level >= 1 else level, now)
        if len(self._buckets) > self._keys:
            self._buckets.popitem(last=False)
        return wait


def retry_after(seconds: float) -> int:
    """Whole seconds for the header Retry-After."""
    return max(1, math.ceil(seconds))
