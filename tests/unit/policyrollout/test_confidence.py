"""Verdicts on shares and ratios: published values, exact error rates, consistency, hostile numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from rlhf_operator.policyrollout import confidence_evalues as evalues
from rlhf_operator.policyrollout.confidence import (
    Count,
    Interval,
    Verdict,
    alpha_of,
    ratio_interval,
    ratio_verdict,
    samples_to_prove,
    share_interval,
    share_verdict,
    surely_seen,
)

shares = st.floats(0.001, 0.999)
sizes = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("events", "n", "limit", "time", "expected"),
    [
        (20, 1000, 0.01, 10, 3.0210228234),
        (60, 2000, 0.0125, 10, 16.1864963952),
        (3, 5000, 0.001, 10, -1.2650879849),
        (450, 812, 0.48, 50, 7.5458481435),
        (5, 20, 0.05, 10, 2.8631011487),
        (1500, 100_000, 0.0125, 30, 21.4705180732),
    ],
)
def test_the_mixture_is_that_of_the_authors_package(
    events: float, n: float, limit: float, time: float, expected: float
) -> None:
    """Values of confseq 0.0.11's BetaBinomialMixture(time, 0.01, limit, 1 - limit, one-sided).log_superMG."""
    assert evalues.above(events, n, limit, time) == pytest.approx(expected, abs=1e-8)


def test_the_mixture_is_that_of_the_authors_reference() -> None:
    """The package's own test: S = 10 at v = 100 with g = 0.2, h = 0.8, tuned at v = 100, alpha 0.05: a 4 : 1 share."""
    # There n = v / (g h) = 625 and the limit is 0.2; alpha moves rho by the ratio of its two levels.
    level = [-math.log(2 * alpha) for alpha in (0.01, 0.05)]
    time = 100 * (2 * level[0] + math.log(1 + 2 * level[0])) / (2 * level[1] + math.log(1 + 2 * level[1]))
    assert evalues.above(625 * 0.2 + 10, 625, 0.2, time) == pytest.approx(-0.07134019, abs=1e-6)


@pytest.mark.parametrize(
    ("events", "n", "alpha", "published"),
    [(12, 1000, 0.05, (0.00402967, 0.02524676)), (333, 812, 0.05, (0.35842300, 0.46298341))],
)
def test_intervals_are_about_as_narrow_as_the_two_sided_ones_tuned_to_that_very_n(
    events: float, n: float, alpha: float, published: tuple[float, float]
) -> None:
    """From confseq 0.0.11: bernoulli_confidence_interval with t_opt = about n; ours is tuned to no n."""
    found = share_interval(events, n, alpha)
    assert found.upper - found.lower < 1.08 * (published[1] - published[0])
    assert found.lower == pytest.approx(published[0], rel=0.1)
    assert found.upper == pytest.approx(published[1], rel=0.1)


@pytest.mark.parametrize("first", [0.3, 1.0, 40.0, 1e4, 1e7])
@pytest.mark.parametrize("second", [0.3, 1.0, 40.0, 1e4, 1e7])
def test_incomplete_beta_is_right_from_tail_to_tail(first: float, second: float) -> None:
    middle, spread = stats.beta.mean(first, second), stats.beta.std(first, second)
    for x in (middle + place * spread for place in (-5, -2, -0.5, 0, 0.5, 2, 5)):
        if 0 < x < 1 and (right := special.betainc(first, second, x)) > 1e-280:
            assert evalues.log_share_of_beta(first, second, x) == pytest.approx(math.log(right), abs=1e-6, rel=1e-6)
    assert evalues.log_share_of_beta(first, second, 0) == -math.inf
    assert evalues.log_share_of_beta(first, second, 1) == 0


@given(n=st.integers(0, 400), fraction=st.floats(0, 1), limit=shares, share=st.floats(0, 1))
def test_the_e_value_is_a_supermartingale(n: int, fraction: float, limit: float, share: float) -> None:
    """Exactly: one more request that fails with a chance of at most the limit never raises its expectation."""
    events = fraction * n
    chance = share * limit
    now = math.exp(evalues.above(events, n, limit))
    then = chance * math.exp(evalues.above(events + 1, n + 1, limit))
    then += (1 - chance) * math.exp(evalues.above(events, n + 1, limit))
    assert then <= now * (1 + 1e-7)


@given(n=st.integers(0, 400), fraction=st.floats(0, 1), limit=shares, value=st.floats(0, 1))
def test_a_fraction_of_an_event_counts_at_most_as_that_chance_of_a_whole_one(
    n: int, fraction: float, limit: float, value: float
) -> None:
    """Why ties may count one half: values in [0, 1] of the same mean give no larger e-values than events."""
    events = fraction * n
    part = math.exp(evalues.above(events + value, n + 1, limit))
    whole = value * math.exp(evalues.above(events + 1, n + 1, limit))
    none = (1 - value) * math.exp(evalues.above(events, n + 1, limit))
    assert part <= (whole + none) * (1 + 1e-7)


@pytest.mark.parametrize(("limit", "horizon"), [(0.5, 800), (0.05, 1500), (0.01, 3000)])
def test_false_verdicts_at_every_request_are_rarer_than_alpha(limit: float, horizon: int) -> None:
    """The exact chance, by the walk's whole distribution, that a look after every request is ever wrong."""
    alpha = 0.05
    alive = np.array([1.0])
    wrong, edge = 0.0, 0
    for n in range(1, horizon + 1):
        alive = np.append(alive * (1 - limit), 0.0) + np.append(0.0, alive * limit)
        while edge <= n and share_verdict(edge, n, limit, alpha) is not Verdict.ABOVE:
            edge += 1
        wrong += float(alive[edge:].sum())
        alive[edge:] = 0.0
    assert 0.3 * alpha < wrong <= alpha


def test_no_verdict_of_what_lies_on_the_allowed_side() -> None:
    assert share_verdict(5, 1000, 0.01, 0.01) is Verdict.UNDECIDED
    assert share_verdict(40, 1000, 0.01, 0.01) is Verdict.ABOVE
    assert share_verdict(10, 10_000, 0.01, 0.01) is Verdict.BELOW
    assert share_verdict(0, 0, 0.01, 0.01) is Verdict.UNDECIDED


def test_win_rate_of_the_example_fails_and_its_interval_says_why() -> None:
    """Ties count one half: 332.5 wins of 812 pairs against a limit of 0.48."""
    assert share_verdict(332.5, 812, 0.48, 0.01) is Verdict.BELOW
    interval = share_interval(332.5, 812, 0.02)
    assert interval.verdict(0.48) is Verdict.BELOW
    assert 0.34 < interval.lower < 332.5 / 812 < interval.upper < 0.48


@settings(max_examples=60)
@given(n=sizes, fraction=st.floats(0, 1), limit=shares, alpha=st.sampled_from([0.0003, 0.01, 0.2]))
def test_verdict_and_interval_agree(n: int, fraction: float, limit: float, alpha: float) -> None:
    events = fraction * n
    interval = share_interval(events, n, 2 * alpha)
    assert 0 <= interval.lower <= fraction + 1e-9
    assert fraction - 1e-9 <= interval.upper <= 1
    if min(abs(limit - interval.lower), abs(limit - interval.upper)) > 1e-6:
        assert interval.verdict(limit) is share_verdict(events, n, limit, alpha)


@given(n=sizes, fraction=st.floats(0, 1), limit=shares)
def test_more_events_never_count_for_less(n: int, fraction: float, limit: float) -> None:
    events = fraction * n
    if events / n > limit:
        assert evalues.above(min(events + 1, n), n, limit) >= evalues.above(events, n, limit) - 1e-9


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.75])
@pytest.mark.parametrize("parts", [(3, 14), (8, 8), (14, 3)])
def test_ratio_e_values_have_a_mean_of_at_most_one(ratio: float, rate: float, parts: tuple[int, int]) -> None:
    """Exactly, over every outcome, at the edge of the hypothesis and inside it."""
    for inside in (1.0, 0.7):
        chance = min(ratio * rate * inside, 1.0)
        weights = [stats.binom.pmf(range(size + 1), size, p) for size, p in zip(parts, (chance, rate), strict=True)]
        for evalue in (evalues.excess_of_events, evalues.excess_of_rates, evalues.excess):
            mean = sum(
                weights[0][own] * weights[1][other] * math.exp(evalue(own, parts[0], other, parts[1], ratio))
                for own, other in itertools.product(range(parts[0] + 1), range(parts[1] + 1))
            )
            assert mean <= 1 + 1e-9, evalue.__name__


@pytest.mark.parametrize(
    ("base", "weight", "ratio", "horizon"), [(0.01, 0.05, 1.25, 100_000), (0.2, 0.5, 1.0, 4000), (0.9, 0.1, 1.05, 4000)]
)
def test_ratio_verdicts_at_the_limit_are_rarely_wrong_over_time(
    base: float, weight: float, ratio: float, horizon: int
) -> None:
    """Looks on a geometric grid at random splits of traffic; ABOVE or BELOW are both wrong at the limit itself."""
    alpha, runs = 0.1, 100
    generator = np.random.default_rng(7)
    looks = np.unique(np.geomspace(20, horizon, 18).astype(int))
    requests = np.diff(looks, prepend=0)
    wrong = dict.fromkeys(Verdict, 0)
    for _ in range(runs):
        split = generator.binomial(requests, weight)
        own = zip(np.cumsum(generator.binomial(split, base * ratio)), np.cumsum(split), strict=True)
        rest = requests - split
        other = zip(np.cumsum(generator.binomial(rest, base)), np.cumsum(rest), strict=True)
        for verdict in {
            ratio_verdict(Count(*map(float, mine)), Count(*map(float, theirs)), ratio, alpha)
            for mine, theirs in zip(own, other, strict=True)
        }:
            wrong[verdict] += 1
    assert wrong[Verdict.ABOVE] <= alpha * runs
    assert wrong[Verdict.BELOW] <= alpha * runs


@pytest.mark.parametrize(
    ("candidate", "stable", "ratio", "expected"),
    [
        (Count(80, 4000), Count(760, 76_000), 1.25, Verdict.ABOVE),
        (Count(40, 4000), Count(760, 76_000), 1.25, Verdict.UNDECIDED),
        (Count(4, 4000), Count(760, 76_000), 1.25, Verdict.BELOW),
        (Count(12, 60), Count(10_000, 1_000_000), 1.25, Verdict.ABOVE),
        (Count(8900, 10_000), Count(95_000, 100_000), 0.98, Verdict.BELOW),
        (Count(9600, 10_000), Count(95_000, 100_000), 0.98, Verdict.ABOVE),
        (Count(9, 10), Count(0, 0), 1.25, Verdict.UNDECIDED),
        (Count(0, 0), Count(9, 10), 1.25, Verdict.UNDECIDED),
        (Count(0, 500), Count(0, 9500), 1.25, Verdict.UNDECIDED),
        (Count(50, 1000), Count(0, 19_000), 1.25, Verdict.ABOVE),
    ],
)
def test_ratio_verdicts(candidate: Count, stable: Count, ratio: float, expected: Verdict) -> None:
    assert ratio_verdict(candidate, stable, ratio, 0.01) is expected


@settings(max_examples=60)
@given(n=sizes, m=st.integers(1, 100_000), own=st.floats(0, 0.2), other=st.floats(0, 0.2), ratio=st.floats(0.3, 3))
def test_ratio_verdict_and_interval_agree(n: int, m: int, own: float, other: float, ratio: float) -> None:
    candidate, stable = Count(own * n, n), Count(other * m, m)
    interval = ratio_interval(candidate, stable, 0.02)
    assert interval.lower <= interval.upper
    if all(abs(math.log(ratio / edge)) > 1e-6 for edge in (interval.lower, interval.upper) if 0 < edge < math.inf):
        assert interval.verdict(ratio) is ratio_verdict(candidate, stable, ratio, 0.01)


def test_verdicts_turn_where_the_intervals_end() -> None:
    candidate, stable, alpha = Count(45, 2500), Count(510, 47_500), 0.004
    share, ratio = share_interval(45, 2500, 2 * alpha), ratio_interval(candidate, stable, 2 * alpha)
    for limit, expected in (
        (0.999 * share.lower, Verdict.ABOVE),
        (1.001 * share.lower, Verdict.UNDECIDED),
        (0.999 * share.upper, Verdict.UNDECIDED),
        (1.001 * share.upper, Verdict.BELOW),
    ):
        assert share_verdict(45, 2500, limit, alpha) is expected
    for limit, expected in (
        (0.999 * ratio.lower, Verdict.ABOVE),
        (1.001 * ratio.lower, Verdict.UNDECIDED),
        (0.999 * ratio.upper, Verdict.UNDECIDED),
        (1.001 * ratio.upper, Verdict.BELOW),
    ):
        assert ratio_verdict(candidate, stable, limit, alpha) is expected


def test_each_of_the_two_e_values_carries_its_part() -> None:
    """Rare events need the one, common ones the other, and the mean loses little of either."""
    rare, common = (30, 1200, 230, 22_800, 1.25), (950, 1000, 9000, 10_000, 1.0)
    assert evalues.excess_of_events(*rare) > evalues.excess_of_rates(*rare) + 2
    assert evalues.excess(*rare) > evalues.excess_of_events(*rare) - 0.3
    assert evalues.excess_of_rates(*common) > evalues.excess_of_events(*common) + 2
    assert evalues.excess(*common) > evalues.excess_of_rates(*common) - 1.4


def test_an_outage_of_both_rolls_nobody_back() -> None:
    """Stable and candidate fail alike for an hour: neither is to blame."""
    before, during = (20, 2000, 380, 38_000), (600, 1000, 11_400, 19_000)
    events, n, other_events, other_n = (one + two for one, two in zip(before, during, strict=True))
    assert ratio_verdict(Count(events, n), Count(other_events, other_n), 1.25, 0.01) is not Verdict.ABOVE


def test_a_tenth_of_a_percent_cannot_be_proven_with_500() -> None:
    needed = samples_to_prove(0.001, 0.0, 0.01)
    assert needed > 4605
    assert share_verdict(0, needed, 0.001, 0.01) is Verdict.BELOW
    assert share_verdict(0, needed - 1, 0.001, 0.01) is Verdict.UNDECIDED
    assert share_verdict(0, 500, 0.001, 0.01) is Verdict.UNDECIDED
    assert samples_to_prove(0.001, 0.0005, 0.01) > 4 * needed
    assert samples_to_prove(0.48, 0.55, 0.01) < 800
    with pytest.raises(ValueError, match="never proven"):
        samples_to_prove(0.01, 0.01, 0.01)


def test_alphas_of_all_metrics_steps_and_windows_sum_to_the_rollouts() -> None:
    for metrics, steps in itertools.product((1, 3, 16), (1, 5)):
        total = metrics * steps * sum(alpha_of(0.99, metrics, steps, window) for window in range(40))
        assert total == pytest.approx(0.01)
        assert total <= 0.01 + 1e-12
    assert alpha_of(0.99, 0, 0) == alpha_of(0.99, 1, 1)


def test_extrapolated_counts_are_taken_and_impossible_ones_refused() -> None:
    assert Count(10.02, 10).events == 10
    assert Count(3.7, 10.4).rest == Count(6.7, 10.4)
    for events, n in ((-1, 10), (math.nan, 10), (1, math.inf), (1, -1)):
        with pytest.raises(ValueError, match="finite"):
            Count(events, n)
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            share_verdict(1, 10, 0.1, alpha)
    for ratio in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="ratio"):
            ratio_verdict(Count(1, 10), Count(1, 10), ratio, 0.01)


@given(
    first=st.floats(0, 1),
    last=st.floats(0, 1),
    between=st.integers(1, 500),
    scrape=st.floats(1, 60),
    counted=st.floats(0, 1e6),
)
def test_what_increase_extrapolates_is_never_taken_for_samples(
    first: float, last: float, between: int, scrape: float, counted: float
) -> None:
    """Prometheus's rule: from the first and the last sample to the window's ends, which are within one scrape."""
    seen = between * scrape
    window = first * scrape + seen + last * scrape
    extrapolated = counted * window / seen
    assert extrapolated * surely_seen(window, scrape) <= counted * (1 + 1e-9)
    assert extrapolated * surely_seen(window, scrape) >= counted * (1 - 2 / between)


def test_surely_seen_parts() -> None:
    assert surely_seen(300, 15) == pytest.approx(0.9)
    assert surely_seen(20, 15) == 0 == surely_seen(0, 15)
    assert Count(4, 100).times(0.9) == Count(3.6, 90)


def test_limits_at_the_ends() -> None:
    assert share_verdict(1, 10, 0.0, 0.01) is Verdict.ABOVE
    assert share_verdict(0, 10_000, 0.0, 0.01) is Verdict.UNDECIDED
    assert share_verdict(10, 10, 1.0, 0.01) is Verdict.UNDECIDED
    assert share_verdict(9, 10, 1.0, 0.01) is Verdict.BELOW
    assert share_interval(0, 0, 0.01) == Interval(0, 1)
    assert share_interval(10, 10, 0.01).upper == 1
    assert 0.2 < share_interval(10, 10, 0.01).lower < 0.9
    assert share_interval(10, 10, 0.01).lower == pytest.approx(1 - share_interval(0, 10, 0.01).upper)
    assert ratio_interval(Count(0, 0), Count(0, 0), 0.01) == Interval(0, math.inf)


def test_millions_of_requests_take_milliseconds() -> None:
    """Terms of the continued fraction grow with the square root of the requests only."""
    interval = share_interval(120_000, 10_000_000, 0.02)
    assert interval.upper - interval.lower < 0.0004
    assert ratio_verdict(Count(130_000, 1e7), Count(1_000_000, 1e8), 1.25, 0.01) is Verdict.ABOVE
