"""Which samples are one pair: in every order, sent any number of times, and in a bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from judgekit.samples import CANDIDATE, STABLE, pair, sample
from rlhf_operator.api.signals import LiveSample, Role
from rlhf_server.livejudge.pairing import (
    Arrival,
    Conversations,
    Pairing,
    Taken,
    Unpaired,
    fingerprint,
    key_of,
)

OTHER_SAMPLING = "sha256:" + "2" * 64
OTHER_PROMPT = "sha256:" + "3" * 64


def pairing(halves: int = 1000, halves_bytes: int = 1_000_000, remembered: int = 1000) -> Pairing:
    return Pairing(halves=halves, halves_bytes=halves_bytes, remembered=remembered)


def reasons(found: Sequence[Unpaired]) -> list[str]:
    return sorted(f"{each.sample.role} {each.reason}" for each in found)


@st.composite
def requests(draw: st.DrawFn) -> list[LiveSample]:
    """Halves of a few requests: some whole, some broken off, some missing, some that do not fit each other."""
    found: list[LiveSample] = []
    for number in range(draw(st.integers(1, 5))):
        for role in draw(st.sampled_from([["live"], ["shadow"], ["live", "shadow"], ["live", "shadow"]])):
            finish = draw(st.sampled_from(["stop", "stop", "stop", "length", "error", "abort", "shed"]))
            sampling = draw(st.sampled_from(["sha256:" + "1" * 64] * 3 + [OTHER_SAMPLING]))
            served = draw(st.sampled_from([STABLE, STABLE, "", "cccccccccc"]))
            prompt = draw(st.sampled_from(["sha256:" + "0" * 64] * 5 + [OTHER_PROMPT]))
            found.append(
                sample(
                    f"r{number}",
                    role,
                    finishReason=finish,
                    samplingDigest=sampling,
                    served=served,
                    promptDigest=prompt,
                )
            )
    return found


def outcomes(samples: Sequence[LiveSample]) -> Counter[str]:
    """What each answer ends as."""
    meeting, found = pairing(), Counter[str]()
    for now, each in enumerate(samples):
        taken = meeting.take(each, float(now))
        if taken.pair is not None:
            found[f"pair {taken.pair.live.request_id}"] += 1
        found.update(f"{gone.sample.request_id} {gone.sample.role} {gone.reason}" for gone in taken.unpaired)
    found.update(f"{gone.sample.request_id} {gone.sample.role} {gone.reason}" for gone in meeting.expire(float("inf")))
    assert meeting.waiting == meeting.waiting_bytes == 0
    return found


@given(requests(), st.data())
def test_order_and_resending_change_no_count(samples: list[LiveSample], data: st.DataObject) -> None:
    sent_again = data.draw(st.lists(st.sampled_from(samples), max_size=8))
    shuffled = data.draw(st.permutations([*samples, *sent_again]))
    assert outcomes(shuffled) == outcomes(samples)


@given(requests(), st.data())
def test_every_answer_ends_once_even_when_ids_contradict(samples: list[LiveSample], data: st.DataObject) -> None:
    copied = data.draw(st.lists(st.sampled_from(samples), max_size=6))
    contradicting = [each.model_copy(update={"at": 2.0 + number}) for number, each in enumerate(copied)]
    everything = data.draw(st.permutations([*samples, *contradicting]))
    found = outcomes(everything)
    pairs = sum(count for what, count in found.items() if what.startswith("pair"))
    assert 2 * pairs + (found.total() - pairs) == len(everything)


@given(requests(), st.integers(1, 3))
def test_what_waits_is_bounded_and_what_goes_is_told(samples: list[LiveSample], limit: int) -> None:
    meeting, told = pairing(halves=limit, remembered=limit + 1), 0
    for now, each in enumerate(samples):
        taken = meeting.take(each, float(now))
        told += 2 * (taken.pair is not None) + len(taken.unpaired)
        assert meeting.waiting <= limit
    assert told + len(meeting.expire(float("inf"))) == len(samples)


def test_two_halves_meet() -> None:
    meeting = pairing()
    live, shadow = pair("r")
    assert meeting.take(shadow, 0.0) == Taken(Arrival.NEW)
    taken = meeting.take(live, 1.0)
    assert taken.pair is not None
    assert (taken.pair.live, taken.pair.shadow) == (live, shadow)
    assert meeting.take(live, 2.0) == meeting.take(shadow, 2.0) == Taken(Arrival.RESENT)


def test_a_half_waits_no_longer_than_its_time() -> None:
    meeting = pairing()
    live, shadow = pair("r")
    meeting.take(live, 10.0)
    assert meeting.expire(10.0) == []
    assert reasons(meeting.expire(10.5)) == ["live timeout"]
    assert reasons(meeting.take(shadow, 11.0).unpaired) == []
    assert reasons(meeting.expire(12.0)) == ["shadow timeout"]


def test_a_broken_half_tells_the_other_at_once() -> None:
    meeting = pairing()
    live, shadow = sample("r"), sample("r", "shadow", "", finishReason="shed")
    meeting.take(live, 0.0)
    assert reasons(meeting.take(shadow, 0.0).unpaired) == ["live other_shed", "shadow shed"]


def test_an_id_seen_twice_in_one_role_is_dropped_with_what_waited() -> None:
    meeting = pairing()
    first, second = sample("r", answer="one"), sample("r", answer="two")
    meeting.take(first, 0.0)
    taken = meeting.take(second, 0.0)
    assert taken.arrival is Arrival.DUPLICATE
    assert reasons(taken.unpaired) == ["live duplicate", "live duplicate"]
    assert reasons(meeting.take(sample("r", "shadow"), 0.0).unpaired) == ["shadow duplicate"]
    assert meeting.take(second, 0.0).arrival is Arrival.RESENT


def test_halves_of_one_revision_are_no_pair() -> None:
    meeting = pairing()
    meeting.take(sample("r", revision=CANDIDATE, served=CANDIDATE), 0.0)
    taken = meeting.take(sample("r", "shadow", served=""), 0.0)
    assert reasons(taken.unpaired) == ["live same_revision", "shadow same_revision"]


def test_bytes_are_bounded_too() -> None:
    meeting = pairing(halves_bytes=3000)
    meeting.take(sample("r1", answer="x" * 1500), 0.0)
    assert reasons(meeting.take(sample("r2", answer="x" * 1500), 0.0).unpaired) == ["live evicted"]
    assert meeting.waiting == 1
    assert meeting.waiting_bytes <= 3000


def test_without_pairs_nothing_waits_and_resending_is_still_seen() -> None:
    meeting = pairing()
    assert meeting.take(sample("r"), 0.0, pairs=False).arrival is Arrival.NEW
    assert meeting.take(sample("r"), 0.0, pairs=False).arrival is Arrival.RESENT
    assert meeting.take(sample("r", answer="two"), 0.0, pairs=False) == Taken(Arrival.DUPLICATE)
    assert meeting.waiting == 0


def test_what_was_counted_before_a_restart_is_not_new() -> None:
    meeting = pairing()
    live, shadow = pair("r")
    meeting.remember(key_of(live), Role.LIVE, fingerprint(live), 0.0)
    assert meeting.take(live, 0.0) == Taken(Arrival.RESENT)
    assert reasons(meeting.take(shadow, 0.0).unpaired) == ["shadow restart"]


def test_a_conversation_counts_once_in_a_window() -> None:
    conversations = Conversations(remembered=2)
    assert conversations.first("s", ("a",), 0.0, 10.0)
    assert not conversations.first("s", ("a",), 9.0, 10.0)
    assert conversations.first("s", ("a",), 10.0, 10.0)
    assert conversations.first("s", ("b",), 10.0, 10.0), "another revision's answers are counted by themselves"
    assert conversations.first("", ("a",), 10.0, 10.0)
    assert conversations.first("", ("a",), 10.0, 10.0), "without a session every answer counts"
