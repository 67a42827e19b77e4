"""Folding and what hangs on it, without recognisers: places are right, the rest stays, user ids become pseudonyms."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.policyrollout import Redaction
from rlhf_server.live import redaction
from rlhf_server.live.folding import fold
from rlhf_server.live.redaction import Pseudonyms, Redactor


class Words:
    """Finds words, so that places can be checked by themselves."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def find(self, text: str) -> list[tuple[int, int, str]]:
        found = [(m.start(), m.end(), "WORD") for word in self._words for m in re.finditer(re.escape(word), text)]
        return sorted(found)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("plain text 12", "plain text 12"),
        ("ｆｕｌｌ　ｗｉｄｔｈ１", "full width1"),
        ("раураl", "paypal"),
        ("a\u200bb\u00adc\u2060d\ufeff", "abcd"),
        ("e\u0301 é ÿ", "e e y"),
        ("٤२๓𝟜", "4234"),
        ("a–b—c−d‐e", "a-b-c-d-e"),
        ("ﬁne ½", "fine 1⁄2"),
        ("1О2 is ОК", "102 is OK"),
        ("a。b", "a.b"),
        ("tab\tline\n", "tab\tline\n"),
        ("Straße", "Straße"),
    ],
)
def test_what_a_text_looks_like(text: str, folded: str) -> None:
    assert fold(text).text.replace("ß", "B").replace("⁄", "/") == folded.replace("ß", "B").replace("⁄", "/")


@given(st.text(max_size=60))
def test_every_folded_character_knows_its_place(text: str) -> None:
    folded = fold(text)
    assert len(folded.text) == len(folded.origin)
    assert list(folded.origin) == sorted(folded.origin)
    assert all(0 <= place < len(text) for place in folded.origin)


@given(
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    disguise=st.sampled_from(["secret", "ｓecret", "s\u200becret", "sеcrеt"]),
)
def test_only_the_finding_is_replaced(before: str, after: str, disguise: str) -> None:
    redactor = Redactor(Redaction.STANDARD, Words("secret"))
    text = f"{before} {disguise} {after}"
    if "<" in before + after or "secret" in fold(before + after).text:
        return
    redacted = redactor.text(text)
    assert redacted.startswith(f"{before} <WORD>")
    # A mark that stands on the finding's last letter goes with it.
    assert redacted == f"{before} <WORD> {after}"


def test_a_placeholder_never_joins_its_neighbours_to_a_finding() -> None:
    redactor = Redactor(Redaction.STANDARD, Words("abba", "b<WORD>"))
    once = redactor.text("abababba")
    assert redactor.text(once) == once


def test_a_finding_that_lies_across_two_pieces_is_found_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_PIECE_CHARACTERS", 20)
    monkeypatch.setattr(redaction, "_OVERLAP_CHARACTERS", 10)
    # The first piece ends within the secret, and something else that ends there is found in it.
    redactor = Redactor(Redaction.STANDARD, Words("secret42", "ret4"))
    for place in range(40):
        assert redactor.text("." * place + "secret42" + "." * 30) == "." * place + "<WORD>" + "." * 30


def test_off_changes_nothing() -> None:
    redactor = Redactor(Redaction.OFF, None)
    assert redactor.json({"a": ["x@example.com", 1]}) == {"a": ["x@example.com", 1]}
    assert redactor.version == "1-Off"


def test_a_mode_that_redacts_needs_something_that_finds() -> None:
    with pytest.raises(ValueError, match="finder"):
        Redactor(Redaction.STRICT, None)


def test_a_user_has_one_pseudonym_that_only_the_key_makes() -> None:
    ours, others = Pseudonyms(lambda: [b"k" * 32]), Pseudonyms(lambda: [b"x" * 32])
    made = ours.of("user-17")
    assert made == ours.of("user-17")
    assert made != ours.of("user-18")
    assert made != others.of("user-17")
    assert "17" not in made.replace("u_", "") or len(made) == 34
    assert ours.of(made) == made
    assert ours.of("") == ""
