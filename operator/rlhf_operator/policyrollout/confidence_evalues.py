"""Logarithms of the e-values behind confidence.py: functions of counts, standard library only. No verdicts here."""

from __future__ import annotations

import math

RARE_WEIGHT = 0.75
"""Weight of the e-value that is tight for rare events, the common case: it loses 0.3 nats by the other's company."""
_TUNED_ALPHA = 0.01
_TINY = 1e-300
_NEGLIGIBLE = -60.0
"""Logarithm of what makes no difference to 1."""
_SMALLEST = 1e-12
"""Closest that a share is taken to 0 or 1: keeps logarithms finite."""


def above(events: float, n: float, limit: float, time: float | None = None) -> float:
    """Log e-value against "the share is at most `limit`": the one-sided beta-binomial mixture.

    For every share q > limit the product over requests of (q / limit)^x ((1-q) / (1-limit))^(1-x), x in [0, 1], is a
    non-negative supermartingale that starts at 1 as long as each conditional mean is at most `limit`: a^x b^(1-x) lies
    under the chord x a + (1-x) b (Hoeffding 1963), whose mean is at most 1. So sums of fractions (ties count 1/2)
    and rates that drift under the limit are covered. The mixture over q is taken with a beta density around the limit,
    cut off below it (Howard, Ramdas, McAuliffe & Sekhon 2021, Proposition 7 and its one-sided form). By Ville's
    inequality the chance that it ever reaches 1 / alpha is at most alpha, however often one looks.

    events: 0 … n, may be fractional. limit: inside (0, 1). time: see `density`.
    """
    first, second = density(limit, time)
    misses = n - events
    shrunk = _log_beta(first + events, second + misses) - _log_beta(first, second)
    cut = log_share_of_beta(second + misses, first + events, 1 - limit) - _log_cut(first, second, limit)
    return shrunk + cut - events * math.log(limit) - misses * math.log1p(-limit)


def excess_of_events(events: float, n: float, other_events: float, other_n: float, ratio: float) -> float:
    """Log e-value against "the rate is at most `ratio` x the other's", from whose events they are.

    An event belongs to the first group with a chance of at most q = ratio n / (ratio n + other_n): `above` of that
    share. No rate of either group enters, and outages that hit both cancel (Lindon & Malek 2022, section on
    inhomogeneous Bernoulli processes). With a and g for the mixture's factors its expectation at any look is at most
    exp(p [ratio n (a g - 1) + other_n (g - 1)]) = 1 for any share of the traffic, because 1 + p (a g - 1) is at most
    exp(p (a g - 1)); over time it is a supermartingale where the split of traffic is steady, which a step's weight is.
    Loose where events are not rare: `excess_of_rates` then is the tighter one.
    """
    total = events + other_events
    if n <= 0 or other_n <= 0 or total <= 0:
        return 0.0
    expected = ratio * n / (ratio * n + other_n)
    return above(events, total, min(max(expected, _SMALLEST), 1 - _SMALLEST))


def excess_of_rates(events: float, n: float, other_events: float, other_n: float, ratio: float) -> float:
    """Log e-value against "the rate is at most `ratio` x the other's", from both rates, rare or not.

    Universal inference (Wasserman, Ramdas & Balakrishnan 2020): the mixture of both groups' likelihoods over Jeffreys'
    densities, over the largest likelihood that the hypothesis allows. Under it the denominator is at least the true
    likelihood, so the quotient stays under a supermartingale that starts at 1, whatever the split of traffic.
    """
    if n <= 0 or other_n <= 0 or events * other_n <= ratio * other_events * n:
        return 0.0 if n <= 0 or other_n <= 0 else -math.inf
    rate = _rate_under(events, n, other_events, other_n, ratio)
    largest = _log_likelihood(events, n, ratio * rate) + _log_likelihood(other_events, other_n, rate)
    return _log_jeffreys(events, n) + _log_jeffreys(other_events, other_n) - largest


def excess(events: float, n: float, other_events: float, other_n: float, ratio: float) -> float:
    """Log e-value against "the rate is at most `ratio` x the other's": a weighted mean of the two, an e-value again."""
    rare = excess_of_events(events, n, other_events, other_n, ratio) + math.log(RARE_WEIGHT)
    common = excess_of_rates(events, n, other_events, other_n, ratio) + math.log(1 - RARE_WEIGHT)
    top = max(rare, common)
    return top + math.log(math.exp(rare - top) + math.exp(common - top))


def log_share_of_beta(first: float, second: float, x: float) -> float:
    """Log of the regularized incomplete beta function I_x(first, second), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0:
        return -math.inf
    if x >= 1:
        return 0.0
    front = first * math.log(x) + second * math.log1p(-x) - _log_beta(first, second)
    if x < (first + 1) / (first + second + 2):
        return front + math.log(_fraction(first, second, x) / first)
    rest = math.exp(front) * _fraction(second, first, 1 - x) / second if front > _NEGLIGIBLE else 0.0
    return math.log1p(-min(rest, 1 - 1e-16))


def density(limit: float, time: float | None = None) -> tuple[float, float]:
    """Both parameters of the beta density around a limit; its mean is the limit.

    Howard et al. make the boundary tightest at one intrinsic time v = n limit (1 - limit), that is, for rare events, at
    so many events as the limit expects. By default ten for small limits: there a share of 1.25 to 5 times the limit is
    found after 1.2 to 1.5 times the requests that the best test for exactly that share needs. Near one half, where no
    share is several times the limit and win rates of 0.4 to 0.6 are told apart, about fifty.
    """
    variance = limit * (1 - limit)
    tightest_at = 10 + 600 * variance * variance if time is None else time
    log_level = -math.log(2 * _TUNED_ALPHA)
    rho = tightest_at / (2 * log_level + math.log(1 + 2 * log_level))
    concentration = rho - variance
    return concentration / (1 - limit), concentration / limit


def _log_cut(first: float, second: float, limit: float) -> float:
    return log_share_of_beta(second, first, 1 - limit)


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)


def _log_jeffreys(events: float, n: float) -> float:
    """Log likelihood of the events, averaged over the density Beta(1/2, 1/2)."""
    return _log_beta(events + 0.5, n - events + 0.5) - math.log(math.pi)


def _log_likelihood(events: float, n: float, rate: float) -> float:
    rate = min(max(rate, _TINY), 1 - 1e-16)
    return events * math.log(rate) + (n - events) * math.log1p(-rate)


def _rate_under(events: float, n: float, other_events: float, other_n: float, ratio: float) -> float:
    """The other's most likely rate when the first's is `ratio` times as high: a root of the score equation."""
    total, failed, other_failed = events + other_events, n - events, other_n - other_events
    square = ratio * (total + failed + other_failed)
    linear = total * (1 + ratio) + ratio * failed + other_failed
    root = math.sqrt(max(linear * linear - 4 * square * total, 0.0))
    return min(2 * total / (linear + root), 1.0, 1 / ratio)


def _fraction(first: float, second: float, x: float) -> float:
    """The continued fraction by Lentz's method; needs about sqrt(max(first, second)) terms."""
    total = first + second
    upper, lower = 1.0, 1 - total * x / (first + 1)
    lower = 1 / (lower if abs(lower) > _TINY else _TINY)
    value = lower
    for term in range(1, 200_000):
        double = 2 * term
        for factor in (
            term * (second - term) * x / ((first + double - 1) * (first + double)),
            -(first + term) * (total + term) * x / ((first + double) * (first + double + 1)),
        ):
            lower = 1 + factor * lower
            lower = 1 / (lower if abs(lower) > _TINY else _TINY)
            upper = 1 + factor / upper
            upper = upper if abs(upper) > _TINY else _TINY
            step = upper * lower
            value *= step
        if abs(step - 1) < 1e-12:
            break
    return value


__all__ = ["RARE_WEIGHT", "above", "density", "excess", "excess_of_events", "excess_of_rates", "log_share_of_beta"]
