"""Which samples are new, and which two are one pair: by request id and prompt digest. Pure: the clock is an argument.

Every distinct sample ends in exactly one way: in a pair, or as unpaired with a reason. A sample that is sent again is
the same sample, and changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from rlhf_operator.api.signals import LiveSample, Role

ONE_SIDED = frozenset({"error", "abort", "shed"})
"""Finish reasons of a sample that has no whole answer."""
_VERSIONS_KEPT = 8

Key = tuple[str, str]
"""Request id and prompt digest."""


class Reason(StrEnum):
    """Label `reason` of rlhf_unpaired_total."""

    TIMEOUT = "timeout"
    """No other half came in time."""
    ERROR = "error"
    ABORT = "abort"
    SHED = "shed"
    OTHER_ERROR = "other_error"
    OTHER_ABORT = "other_abort"
    OTHER_SHED = "other_shed"
    DUPLICATE = "duplicate"
    """Two different answers of one role came under one request id: nobody knows which is meant."""
    SAMPLING = "sampling"
    """The halves were sampled with different parameters."""
    REVISION = "same_revision"
    """Both halves are of one revision."""
    SERVED = "other_live"
    """The copy was of a request that another revision answered than the live half's."""
    EVICTED = "evicted"
    """There was no room to wait."""
    RESTART = "restart"
    """The other half was counted before the judge started anew, and its text is gone."""


class Arrival(StrEnum):
    """What a sample is to the judge."""

    NEW = "new"
    RESENT = "resent"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request."""

    live: LiveSample
    shadow: LiveSample


@dataclass(frozen=True, slots=True)
class Unpaired:
    """An answer that found no other half."""

    sample: LiveSample
    reason: Reason


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a sample that arrived, and of one that waited for it."""

    arrival: Arrival
    pair: Pair | None = None
    unpaired: tuple[Unpaired, ...] = ()


@dataclass(slots=True)
class _Entry:
    since: float
    seen: dict[Role, list[str]] = field(default_factory=dict)
    waiting: tuple[LiveSample, int] | None = None
    closed: Reason | None = None
    """Why the half that is still to come finds none."""


def key_of(sample: LiveSample) -> Key:
    """What the two halves of a pair have in common."""
    return sample.request_id, sample.prompt_digest


def fingerprint(sample: LiveSample) -> str:
    """Tells a sample that is sent again from another one under the same id."""
    parts = (sample.revision, sample.finish_reason, sample.sampling_digest, repr(sample.at), sample.answer)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


def size_of(sample: LiveSample) -> int:
    """Bytes of a sample's texts, and a little for the rest."""
    turns = sum(len(turn.content.encode()) for turn in sample.messages)
    return len(sample.prompt.encode()) + len(sample.answer.encode()) + turns + len(repr(sample.row)) + 512


class Pairing:
    """Halves that wait, and what is remembered of requests that are through. Bounded in number and bytes."""

    def __init__(self, *, halves: int, halves_bytes: int, remembered: int) -> None:
        self._limit = halves
        self._limit_bytes = halves_bytes
        self._remembered = remembered
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Halves that wait."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Their size."""
        return self._bytes

    def remember(self, key: Key, role: Role, print_: str, now: float) -> None:
        """Take a sample for seen and through: it was, before the process started anew."""
        entry = self._entries.setdefault(key, _Entry(now))
        entry.seen.setdefault(role, []).append(print_)
        entry.closed = Reason.RESTART

    def take(self, sample: LiveSample, now: float, *, pairs: bool = True) -> Taken:
        """Take one sample.

        pairs: whether anything is judged in pairs; when not, nothing waits and nothing is unpaired.
        """
        key, role, print_ = key_of(sample), sample.role, fingerprint(sample)
        entry = self._entries.setdefault(key, _Entry(now))
        prints = entry.seen.setdefault(role, [])
        if print_ in prints:
            return Taken(Arrival.RESENT)
        if len(prints) < _VERSIONS_KEPT:
            prints.append(print_)
        if len(prints) > 1:
            return Taken(Arrival.DUPLICATE, unpaired=self._contradict(key, entry, sample) if pairs else ())
        if not pairs:
            return Taken(Arrival.NEW, unpaired=self._make_room())
        pair, unpaired = self._meet(key, entry, sample)
        return Taken(Arrival.NEW, pair, (*unpaired, *self._make_room()))

    def expire(self, before: float) -> list[Unpaired]:
        """Forget requests first seen before that time; halves that still wait are unpaired."""
        found: list[Unpaired] = []
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.since >= before:
                break
            found += self._forget(key, Reason.TIMEOUT)
        return found

    def _meet(self, key: Key, entry: _Entry, sample: LiveSample) -> tuple[Pair | None, tuple[Unpaired, ...]]:
        if sample.finish_reason in ONE_SIDED:
            other = Reason(f"other_{sample.finish_reason}")
            entry.closed = other
            waited = self._let_go(key, entry)
            ended = (Unpaired(sample, Reason(sample.finish_reason)),)
            return None, ended if waited is None else (*ended, Unpaired(waited, other))
        if entry.closed is not None:
            return None, (Unpaired(sample, entry.closed),)
        waited = self._let_go(key, entry)
        if waited is None:
            size = size_of(sample)
            entry.waiting = sample, size
            self._waiting[key] = None
            self._bytes += size
            return None, ()
        # Both are through: whatever else comes under this id is one too many.
        entry.closed = Reason.DUPLICATE
        live, shadow = (sample, waited) if sample.role is Role.LIVE else (waited, sample)
        if (reason := mismatch(live, shadow)) is not None:
            return None, (Unpaired(live, reason), Unpaired(shadow, reason))
        return Pair(live, shadow), ()

    def _contradict(self, key: Key, entry: _Entry, sample: LiveSample) -> tuple[Unpaired, ...]:
        found = [Unpaired(sample, Reason.DUPLICATE)]
        if (waited := self._let_go(key, entry)) is not None:
            found.append(Unpaired(waited, Reason.DUPLICATE))
        entry.closed = entry.closed or Reason.DUPLICATE
        return tuple(found)

    def _let_go(self, key: Key, entry: _Entry) -> LiveSample | None:
        if entry.waiting is None:
            return None
        sample, size = entry.waiting
        entry.waiting = None
        self._bytes -= size
        self._waiting.pop(key, None)
        return sample

    def _make_room(self) -> tuple[Unpaired, ...]:
        found: list[Unpaired] = []
        while len(self._waiting) > self._limit or self._bytes > self._limit_bytes:
            key = next(iter(self._waiting))
            entry = self._entries[key]
            if (waited := self._let_go(key, entry)) is not None:
                entry.closed = Reason.EVICTED
                found.append(Unpaired(waited, Reason.EVICTED))
        while len(self._entries) > self._remembered:
            found += self._forget(next(iter(self._entries)), Reason.EVICTED)
        return tuple(found)

    def _forget(self, key: Key, reason: Reason) -> list[Unpaired]:
        waited = self._let_go(key, self._entries[key])
        del self._entries[key]
        return [] if waited is None else [Unpaired(waited, reason)]


def mismatch(live: LiveSample, shadow: LiveSample) -> Reason | None:
    """Why two halves are not of one pair."""
    if live.sampling_digest != shadow.sampling_digest:
        return Reason.SAMPLING
    if live.revision == shadow.revision:
        return Reason.REVISION
    if shadow.served and shadow.served != live.revision:
        return Reason.SERVED
    return None


class Conversations:
    """At most one sample per conversation and window counts, so that no conversation outweighs the others."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._seen: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def first(self, session: str, what: tuple[str, ...], now: float, window_seconds: float) -> bool:
        """Whether this is the conversation's first of its kind in the window; without a session every one is."""
        if not session:
            return True
        slot, key = int(now // window_seconds), (session, *what)
        if self._seen.get(key) == slot:
            return False
        self._seen[key] = slot
        self._seen.move_to_end(key)
        while len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return True
