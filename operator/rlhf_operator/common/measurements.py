"""What a round of Prometheus queries is and what it may come back with. Asking is prometheus/, judging the kinds'."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """User name and password, as read from a Secret. `repr` shows neither."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PrometheusTarget:
    """One Prometheus and how to log in to it. `repr` shows no secret.

    url: what /api/v1/query is appended to; it must be on the operator's list.
    ca: PEM certificates that are trusted beside the system's; for https only.
    Raises ValueError, without the value in it, for credentials that can't be sent as a header.
    """

    url: str
    ca: str | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)
    basic: BasicAuth | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.bearer is not None and self.basic is not None:
            raise ValueError("either a token or a user name with password, not both")
        secrets = {"token": self.bearer}
        if self.basic is not None:
            secrets = {"user name": self.basic.username, "password": self.basic.password}
            if ":" in self.basic.username:
                raise ValueError("the user name contains a colon, which basic authentication can't carry")
        for what, secret in secrets.items():
            if secret is not None and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in secret):
                raise ValueError(f"the {what} contains control characters; is there a line break at its end?")
        if self.bearer is not None and not self.bearer.isascii():
            raise ValueError("the token contains characters that a header can't carry")


class ProblemReason(StrEnum):
    """Why a query brought no figure. None of them speaks for or against a revision."""

    EMPTY = "Empty"
    """An empty vector: no such series at that time."""
    STALE = "Stale"
    """There were figures a while ago and there are none now; or the answer is for another time than was asked."""
    NOT_A_NUMBER = "NotANumber"
    """NaN, as 0 / 0 gives."""
    INFINITE = "Infinite"
    """+Inf or -Inf, as 1 / 0 gives."""
    SEVERAL_SERIES = "SeveralSeries"
    """More than one series: which one counts is the query's business."""
    WRONG_TYPE = "WrongType"
    """A matrix, a string or a native histogram."""
    INCOMPLETE = "Incomplete"
    """The server warned about its own answer: parts of the data may be missing."""
    QUERY_ERROR = "QueryError"
    """The server refused the query."""
    UNREACHABLE = "Unreachable"
    """No connection, a broken one, or a server that says it can't answer now."""
    TIMEOUT = "Timeout"
    """No answer in time."""
    UNAUTHORIZED = "Unauthorized"
    """The credentials are missing, wrong or not enough."""
    NOT_ALLOWED = "NotAllowed"
    """The address is none that the operator may call."""
    TOO_LARGE = "TooLarge"
    """The answer is larger than the operator reads."""
    NOT_PROMETHEUS = "NotPrometheus"
    """An answer that is not one of Prometheus's API: another page, a redirect."""


@dataclass(frozen=True, slots=True)
class Value:
    """A finite figure."""

    value: float


@dataclass(frozen=True, slots=True)
class Problem:
    """No figure, and why, in words for the person who wrote the query. Nothing of the server's body is in them."""

    reason: ProblemReason
    message: str
    series: int | None = None
    """How many series came, for SeveralSeries."""


Sample = Value | Problem
"""What one query came back with."""


@dataclass(frozen=True, slots=True)
class Round:
    """Instant queries at one evaluation time.

    at: the server's own time, at which every query was evaluated; None when the server could not even be asked for
        it. It is not the operator's clock, which may be minutes off.
    samples: one entry per query asked, by the caller's names.
    """

    at: datetime | None
    samples: Mapping[str, Sample]
