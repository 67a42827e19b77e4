"""What was asked lately, by content: the same question is not asked twice in one process."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

_KEPT = 16_384

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """The last answers by the digest of their question. Thread-safe."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Answer | None:
        """The answer, when it is known."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; the one that was asked for longest ago gives way."""
        with self._lock:
            self._found[key] = answer
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
