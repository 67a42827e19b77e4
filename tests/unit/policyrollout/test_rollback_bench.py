"""How the benchmark of the way back reads its observations."""

from __future__ import annotations

import pytest

from bench.timeline import Query, timeline
from demo.users import Seen

STABLE, CANDIDATE = "aaaaaaaaaa", "bbbbbbbbbb"


def answer(asked: float, revision: str, code: int = 200) -> Seen:
    return Seen(asked, asked + 0.5, code, 0, revision, "" if code == 200 else "a fault")


def test_a_way_back_is_split_at_what_each_observer_saw() -> None:
    seen = [
        # Of the run before: neither its failures nor its end count.
        answer(90, CANDIDATE, 500),
        answer(101, CANDIDATE),
        answer(102, CANDIDATE, 500),
        answer(110, STABLE),
        answer(131.5, CANDIDATE),
        answer(132, STABLE),
        # A gateway that refuses connections is another's doing.
        answer(132.5, "", 0),
        answer(133, STABLE),
    ]
    scrapes = [(95.0, 1.0), (100.0, 1.0), (105.0, 2.0), (110.0, 2.0)]
    queries = [
        Query(100.0, 100.5, True),
        Query(130.0, 130.1, True),
        Query(130.1, 130.4, False),
        Query(130.1, 130.3, False),
        Query(160.0, 160.1, True),
    ]
    found = timeline(100.0, 131.0, seen, scrapes, queries, CANDIDATE)
    assert (found.bad, found.scraped, found.asked, found.told) == (102.5, 105.0, 130.0, 130.4)
    assert (found.written, found.over, found.harmed) == (131.0, 132, 1)
    assert found.seconds == 29.5
    assert sum(found.parts().values()) == pytest.approx(29.5)


def test_a_gateway_that_was_faster_than_our_watch_ends_with_the_write() -> None:
    seen = [answer(102, CANDIDATE, 500), answer(130.5, STABLE)]
    queries = [Query(130.0, 130.1, True)]
    found = timeline(100.0, 131.0, seen, [(105.0, 1.0)], queries, CANDIDATE)
    assert found.over == found.written == 131.0
