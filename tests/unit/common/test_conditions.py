"""Conditions, times and names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rlhf_operator.common.conditions import FALSE, TRUE, Condition, as_recorded, cut, is_true, merge
from rlhf_operator.common.hashes import sha256_of, short
from rlhf_operator.common.names import Owner, metadata
from rlhf_operator.common.times import for_people, format_time, parse_time

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = as_recorded(merge([], [Condition("Ready", FALSE, "Starting", "a")], 1, NOW))
    same = merge(first, [Condition("Ready", FALSE, "Running", "b")], 2, LATER)
    assert same[0]["lastTransitionTime"] == "2026-01-31T12:00:00Z"
    assert (same[0]["reason"], same[0]["observedGeneration"]) == ("Running", 2)
    changed = merge(first, [Condition("Ready", TRUE, "Complete", "c")], 2, LATER)
    assert changed[0]["lastTransitionTime"] == "2026-01-31T13:00:00Z"
    assert is_true(as_recorded(changed), "Ready")


def test_conditions_that_are_no_longer_wanted_go_and_long_words_are_cut() -> None:
    first = as_recorded(merge([], [Condition("Old", TRUE, "A"), Condition("Ready", TRUE, "A", "x" * 5000)], 1, NOW))
    assert len(first[1].message) == 1024
    assert [each["type"] for each in merge(first, [Condition("Ready", TRUE, "A")], 1, NOW)] == ["Ready"]
    assert cut("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T13:00:00+01:00", NOW),
        ("2026-01-31T12:00:00", NOW),
        ("yesterday", None),
        (None, None),
    ],
)
def test_times_are_read(text: str | None, moment: datetime | None) -> None:
    assert parse_time(text) == moment


def test_times_are_written_as_kubernetes_does() -> None:
    assert format_time(NOW.replace(microsecond=999_999)) == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(("seconds", "words"), [(0, "0s"), (90, "1m30s"), (3600, "1h"), (3905, "1h5m5s")])
def test_spans_for_people(seconds: int, words: str) -> None:
    assert for_people(seconds) == words
    assert for_people(timedelta(seconds=seconds)) == words


def test_a_child_says_whose_it_is_unless_it_outlives_its_owner() -> None:
    owner = Owner("RLHFJob", "team", "a", "uid")
    assert metadata(owner, "child")["ownerReferences"][0]["uid"] == "uid"
    free = metadata(owner, "child", {"x": "y"}, owned=False)
    assert "ownerReferences" not in free
    assert free["labels"]["rlhf.dev/owner-name"] == "a"
    with pytest.raises(ValueError, match="longer than 63"):
        metadata(owner, "c" * 64)


def test_digests() -> None:
    assert short(sha256_of(b"")) == "e3b0c44298fc"
