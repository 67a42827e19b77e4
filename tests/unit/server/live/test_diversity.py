"""How varied two answers are: alike, repeated, in other scripts, of one conversation."""

import pytest

from rlhf_server.live.diversity import WORDS, Pairing, bigrams, distinct

SEA = "The sea is wide and every wave that comes in from the open water breaks anew on the stones of the shore."
TAX = "A tax return has three parts: what you earned, which costs count, and who signs for all of it at last."


def variety(one: str, other: str) -> float | None:
    pairing = Pairing()
    assert pairing.add(one, "") is None
    return pairing.add(other, "")


def test_answers_to_different_questions_are_varied_and_equal_ones_are_half_so() -> None:
    assert variety(SEA, TAX) == 1.0
    assert variety(SEA, SEA) == 0.5
    assert variety(SEA, SEA.upper()) == 0.5, "letters in another case are the same words"


def test_a_beginning_and_an_end_that_never_change_are_seen() -> None:
    phrase = "As an assistant I am happy to help you with that question today. "
    found = variety(phrase + SEA, phrase + TAX)
    assert found is not None
    assert 0.7 < found < 0.9


def test_an_answer_that_repeats_itself_is_seen() -> None:
    found = variety("no end " * 60, TAX)
    assert found is not None
    assert found < 0.2


def test_scripts_without_spaces_have_words_too() -> None:
    assert variety("海は広くて大きい", "税金の申告は三つ") == 1.0
    assert variety("海は広くて大きい", "海は広くて大きい") == 0.5


def test_longer_answers_are_compared_by_their_beginnings() -> None:
    text = " ".join(str(number) for number in range(10 * WORDS))
    assert len(bigrams(text)) == WORDS - 1
    assert len(bigrams("x" * 1_000_000)) == 0


@pytest.mark.parametrize("text", ["", "Yes.", "…", " \n"])
def test_an_answer_of_fewer_than_two_words_is_left_out(text: str) -> None:
    pairing = Pairing()
    assert [pairing.add(each, "") for each in (SEA, text, SEA)] == [None, None, 0.5]


def test_each_answer_is_in_one_pair() -> None:
    pairing = Pairing()
    found = [pairing.add(text, "") for text in (SEA, SEA, TAX, SEA)]
    assert found == [None, 0.5, None, 1.0]


def test_answers_of_one_conversation_are_no_pair() -> None:
    pairing = Pairing()
    found = [pairing.add(SEA, conversation) for conversation in ("a", "a", "b", "", "")]
    assert found == [None, None, 0.5, None, 0.5]


def test_the_share_is_of_both_answers() -> None:
    assert distinct([1, 2, 3, 4], [1, 2]) == 4 / 6
