"""One way back of a bad candidate, put together from what users, Prometheus, a recorder and a watch saw. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.users import Seen

FAULT = 500
"""What the candidate's fault answers, without saying whose answer it is. A gateway's own refusals have other codes."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the operator's, by the recorder's clock."""

    asked: float
    answered: float
    first: bool
    """Whether a round begins with it."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One run, in seconds since 1970."""

    bad: float
    """The first user had a failed answer."""
    scraped: float
    """Prometheus had the first failed answer."""
    asked: float
    """The round that decided began."""
    told: float
    """Its last query was answered."""
    written: float
    """The route with weight 0 was seen on the API server."""
    over: float
    """A user asked, and from then on none got the candidate's answer."""
    harmed: int
    """Failed answers."""

    @property
    def seconds(self) -> float:
        """From the first bad answer to weight 0 at the gateway."""
        return self.over - self.bad

    def parts(self) -> dict[str, float]:
        """Seconds from one observation to the next, in their order; together they are `seconds`."""
        return {
            "scrape": self.scraped - self.bad,
            "wait": self.asked - self.scraped,
            "query": self.told - self.asked,
            "write": self.written - self.told,
            "gateway": self.over - self.written,
        }


def timeline(
    began: float,
    written: float,
    seen: Sequence[Seen],
    scrapes: Sequence[tuple[float, float]],
    queries: Sequence[Query],
    candidate: str,
) -> Timeline:
    """Put one run's observations together.

    began: when the fault was about to be switched on. scrapes: (when, failed answers so far) by Prometheus.
    """
    asked = sorted((each for each in seen if each.asked > began), key=lambda each: each.asked)
    failed = [each for each in seen if each.answered > began and each.code == FAULT]
    bad = min(each.answered for each in failed)
    reached = [each.asked for each in asked if each.code == FAULT or each.revision == candidate]
    over = next(each.asked for each in asked if each.asked > max(reached))
    base = max((count for at, count in scrapes if at <= bad), default=0.0)
    scraped = next(at for at, count in scrapes if at > bad and count > base)
    round_began = max(each.asked for each in queries if each.first and each.asked < written)
    told = max(each.answered for each in queries if round_began <= each.asked and each.answered < written)
    return Timeline(bad, scraped, round_began, told, written, max(over, written), len(failed))
