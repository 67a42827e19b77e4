"""What a serving pod counts of the requests it answers, by role and slice. Names are those of api/signals.py."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rlhf_operator.api import signals
from rlhf_operator.api.signals import OTHER, SESSION_HEADER, SLICE_LABELS, RequestOutcome, Role

from .diversity import Pairing
from .exchange import Exchange

_PRECREATED = 128
"""Combinations of slices whose counters are made before they are seen; more would cost every scrape."""
_MAX_COMBINATIONS = 128
"""Combinations of slices at most, each of some 200 lines; what comes after them is counted as `other`."""

_HELD = 256
"""Answers at most whose figures wait for a scrape that shows their series at 0."""

Slices = tuple[str, ...]
_Outcomes = Mapping[RequestOutcome, Counter]


@dataclass(frozen=True, slots=True)
class _Figures:
    """What is measured of one answer."""

    seconds: float
    first_token: float | None
    per_token: float | None
    input_tokens: int
    output_tokens: int
    variety: float | None
    """Of this answer and the one before it; None for the first of a pair."""


@dataclass(slots=True)
class _Series:
    """The children of one role and one combination of slices."""

    outcomes: _Outcomes
    seconds: Histogram
    first_token: Histogram
    per_token: Histogram
    input_tokens: Counter
    output_tokens: Counter
    squared: Counter
    input_squared: Counter
    product: Counter
    variety: Counter
    variety_squares: Counter
    variety_pairs: Counter
    pairing: Pairing = field(default_factory=Pairing)
    held: list[_Figures] | None = None
    """Figures that wait until a scrape has shown these series at 0; None: one has."""

    def add(self, figures: _Figures) -> None:
        """Count an answer, now or after the next scrape."""
        if self.held is not None and len(self.held) < _HELD:
            self.held.append(figures)
        else:
            self._count(figures)

    def shown(self) -> None:
        """A scrape has shown them: count what has waited."""
        held, self.held = self.held or (), None
        for figures in held:
            self._count(figures)

    def _count(self, figures: _Figures) -> None:
        self.seconds.observe(figures.seconds)
        if figures.first_token is not None:
            self.first_token.observe(figures.first_token)
        if figures.per_token is not None:
            self.per_token.observe(figures.per_token)
        read, written = figures.input_tokens, figures.output_tokens
        self.input_tokens.inc(read)
        self.output_tokens.inc(written)
        self.squared.inc(written * written)
        self.input_squared.inc(read * read)
        self.product.inc(read * written)
        if figures.variety is not None:
            self.variety.inc(figures.variety)
            self.variety_squares.inc(figures.variety**2)
            self.variety_pairs.inc()


class Metrics:
    """One registry per server, so that two in one process do not meet."""

    def __init__(self, namespace: str, rollout: str, revision: str) -> None:
        self.registry = CollectorRegistry()
        self._identity = {"rlhf_namespace": namespace, "rlhf_rollout": rollout, "revision": revision}
        of_slice = (*signals.IDENTITY_LABELS, *SLICE_LABELS)
        self._requests = self._counter(signals.REQUESTS, "Requests by their end", (*of_slice, "outcome"))
        self._seconds = self._histogram(signals.REQUEST_SECONDS, "Time of answered requests", of_slice)
        self._first = self._histogram(signals.TIME_TO_FIRST_TOKEN, "Time to an answer's first token", of_slice)
        self._per_token = self._histogram(
            signals.TIME_PER_OUTPUT_TOKEN, "Time for each token after an answer's first", of_slice
        )
        self._tokens = self._counter(signals.TOKENS, "Tokens of answered requests", (*of_slice, "direction"))
        self._squared = self._counter(signals.TOKENS_SQUARED, "Sum of squares of answers' tokens", of_slice)
        self._input_squared = self._counter(
            signals.INPUT_TOKENS_SQUARED, "Sum of squares of answered requests' tokens", of_slice
        )
        self._product = self._counter(signals.TOKENS_PRODUCT, "Sum of requests' tokens times answers'", of_slice)
        self._variety = self._counter(signals.DIVERSITY_SUM, "Sum of the variety of two answers", of_slice)
        self._variety_squares = self._counter(signals.DIVERSITY_SQUARES, "Sum of its squares", of_slice)
        self._variety_pairs = self._counter(signals.DIVERSITY_PAIRS, "Pairs of answers it was measured on", of_slice)
        self._shadows = Gauge(
            signals.SHADOWS_IN_FLIGHT, "Copies being answered now", signals.IDENTITY_LABELS, registry=self.registry
        )
        self._samples_dropped = self._counter(
            signals.SAMPLES_DROPPED, "Answers that no judge was told of", (*signals.IDENTITY_LABELS, "reason")
        )
        self._stale = Gauge(
            signals.SETTINGS_STALE,
            "1 while the settings file can't be read and former settings are in force",
            [label for label in signals.IDENTITY_LABELS if label != "role"],
            registry=self.registry,
        )
        self._series: dict[tuple[Role, Slices], _Series] = {}
        self._lock = threading.Lock()
        """Between a thread that answers a scrape and the server's loop; never held while anything is written out."""
        self.allow({})
        for role in Role:
            # These a scrape has long seen when the first user comes.
            self._of(role, ("",) * len(SLICE_LABELS)).held = None

    def allow(self, slices: Mapping[str, Iterable[str]]) -> None:
        """Make an allow-list's series at 0: of one that begins at 1, Prometheus' increase() sees no first event."""
        values = [("", OTHER, *slices[name]) if slices.get(name) else ("", OTHER) for name in SLICE_LABELS]
        if math.prod(map(len, values)) <= _PRECREATED:
            for combination in itertools.product(*values):
                for role in Role:
                    self._outcomes(role, combination)

    def begin(self, role: Role, slices: Mapping[str, str]) -> None:
        """Note that such a request is under way: a scrape before its end shows the 0."""
        self._of(role, _combination(slices))

    def count(self, role: Role, slices: Mapping[str, str], outcome: RequestOutcome) -> None:
        """Count a request that came to no answer."""
        self._of(role, _combination(slices)).outcomes[outcome].inc()

    def ended(self, exchange: Exchange) -> None:
        """Count a request that went to the server; times and tokens only of those that were answered."""
        series = self._of(exchange.role, _combination(exchange.slices))
        series.outcomes[exchange.outcome].inc()
        if exchange.outcome is RequestOutcome.OK:
            figures = _figures(exchange, series.pairing)
            with self._lock:
                series.add(figures)

    def sample_dropped(self, role: Role, reason: str, count: int = 1) -> None:
        """Count answers that no judge was told of."""
        self._samples_dropped.labels(**self._identity, role=role.value, reason=reason).inc(count)

    def watch(self, shadows: Callable[[], int], stale: Callable[[], bool]) -> None:
        """Where gauges come from."""
        self._shadows.labels(**self._identity, role=Role.SHADOW.value).set_function(shadows)
        self._stale.labels(**self._identity).set_function(stale)

    def expose(self) -> bytes:
        """The text format. Series that it shows for the first time are at 0, and count from now on."""
        known = list(self._series.values())
        text = generate_latest(self.registry)
        with self._lock:
            for series in known:
                series.shown()
        return text

    def _of(self, role: Role, slices: Slices) -> _Series:
        if (found := self._series.get((role, slices))) is None:
            if len(self._series) >= len(Role) * _MAX_COMBINATIONS:
                slices = (OTHER,) * len(SLICE_LABELS)
            found = self._series[role, slices] = self._make(role, slices)
        return found

    def _make(self, role: Role, slices: Slices) -> _Series:
        labels = self._labels(role, slices)
        return _Series(
            outcomes=self._outcomes(role, slices),
            seconds=self._seconds.labels(**labels),
            first_token=self._first.labels(**labels),
            per_token=self._per_token.labels(**labels),
            input_tokens=self._tokens.labels(**labels, direction="input"),
            output_tokens=self._tokens.labels(**labels, direction="output"),
            squared=self._squared.labels(**labels),
            input_squared=self._input_squared.labels(**labels),
            product=self._product.labels(**labels),
            variety=self._variety.labels(**labels),
            variety_squares=self._variety_squares.labels(**labels),
            variety_pairs=self._variety_pairs.labels(**labels),
            held=[],
        )

    def _outcomes(self, role: Role, slices: Slices) -> _Outcomes:
        labels = self._labels(role, slices)
        return {outcome: self._requests.labels(**labels, outcome=outcome.value) for outcome in RequestOutcome}

    def _labels(self, role: Role, slices: Slices) -> dict[str, str]:
        return {**self._identity, "role": role.value, **dict(zip(SLICE_LABELS, slices, strict=True))}

    def _counter(self, name: str, words: str, labels: Iterable[str]) -> Counter:
        return Counter(name, words, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, words: str, labels: Iterable[str]) -> Histogram:
        return Histogram(name, words, tuple(labels), buckets=signals.LATENCY_BUCKETS, registry=self.registry)


def _figures(exchange: Exchange, pairing: Pairing) -> _Figures:
    tokens = exchange.output_tokens or 0
    return _Figures(
        seconds=exchange.seconds,
        first_token=exchange.first_token_seconds,
        per_token=seconds_per_token(exchange, tokens),
        input_tokens=exchange.input_tokens or 0,
        output_tokens=tokens,
        variety=pairing.add(exchange.answer, exchange.headers.get(SESSION_HEADER, "")),
    )


def seconds_per_token(exchange: Exchange, tokens: int) -> float | None:
    """Time for each token after the first; of a whole answer, whose first token nobody saw, for each of them."""
    if tokens < 2:
        return None
    if not exchange.streamed:
        return exchange.seconds / tokens
    if exchange.first_token_seconds is None:
        return None
    return max(0.0, exchange.seconds - exchange.first_token_seconds) / (tokens - 1)


def _combination(slices: Mapping[str, str]) -> Slices:
    return tuple(slices[name] for name in SLICE_LABELS)


def slices_of(headers: Mapping[str, str], allowed: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Slice labels of a request; a value that is not on the allow-list is `other`, none is empty."""
    found = {}
    for name, header in signals.SLICE_HEADERS.items():
        value = headers.get(header, "").strip()
        found[name] = value if not value or value in allowed.get(name, ()) else OTHER
    return found
