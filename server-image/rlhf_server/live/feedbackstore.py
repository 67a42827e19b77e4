"""Feedback that was taken: each once, however often it is sent to this pod. It has been redacted before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from .sinks import Record, SinkAway, SpooledSink, record_id

_KNOWN = 100_000
"""Feedback that is remembered to know it again, newest first: some 20 MB."""


@dataclass(frozen=True, slots=True)
class End:
    """What became of one feedback."""

    dropped: str | None = None
    duplicate: bool = False


class FeedbackStore:
    """Keeps feedback in a sink, and knows what it has."""

    def __init__(self, sink: SpooledSink | None) -> None:
        """`sink` None: nothing is kept, but what came twice is known all the same."""
        self.sink = sink
        self._known: OrderedDict[str, str] = OrderedDict()
        if sink is not None:
            for record in sink.kept():
                self._remember(record)

    def keep(self, records: Sequence[Record]) -> list[End]:
        """What became of each, in their order; what is not dropped is safe."""
        ends: list[End] = []
        fresh: dict[str, Record] = {}
        for record in records:
            name = record_id(record)
            former = self._known.get(name) or (_digest(fresh[name]) if name in fresh else None)
            if former is None:
                fresh[name] = record
                ends.append(End())
            else:
                ends.append(End(duplicate=True) if former == _digest(record) else End(dropped="conflict"))
        if fresh and self.sink is not None:
            try:
                self.sink.append(list(fresh.values()))
            except SinkAway:
                lost = End(dropped="spool_full")
                return [lost if record_id(each) in fresh else end for each, end in zip(records, ends, strict=True)]
        for record in fresh.values():
            self._remember(record)
        return ends

    def _remember(self, record: Record) -> None:
        self._known[record_id(record)] = _digest(record)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def _digest(record: Record) -> str:
    return str(record.get("contentDigest", ""))
