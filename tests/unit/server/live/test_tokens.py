"""Feedback tokens: only what a key of ours signed, unaltered and not too old, says which answer it is about."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_server.live.refusals import TokenExpired, TokenForged, TokenInvalid, TokenMalformed
from rlhf_server.live.tokens import MAX_TOKEN_CHARACTERS, Claims, KeyFile, check_token, load_keys, make_token

OLD, NEW, FOREIGN = b"o" * 32, b"n" * 32, b"f" * 32
CLAIMS = Claims("req-1", "5f3c9", 1_000, {"team": "search", "language": "de"})


def test_what_was_signed_is_what_is_read() -> None:
    assert check_token([NEW], make_token([NEW], CLAIMS), now=999.9) == CLAIMS


def test_a_token_is_one_word_that_fits_a_header() -> None:
    token = make_token([NEW], Claims("ü" * 256, "5f3c9", 2**40, {}))
    assert token.isascii()
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert len(token) <= MAX_TOKEN_CHARACTERS


def test_after_a_rotation_both_keys_count_and_the_first_one_signs() -> None:
    before = make_token([OLD], CLAIMS)
    after = make_token([NEW, OLD], CLAIMS)
    assert check_token([NEW, OLD], before, now=0) == CLAIMS
    assert check_token([NEW], after, now=0) == CLAIMS
    with pytest.raises(TokenForged):
        check_token([NEW], before, now=0)


def test_a_foreign_key_is_forgery() -> None:
    with pytest.raises(TokenForged, match="no key of this rollout"):
        check_token([NEW, OLD], make_token([FOREIGN], CLAIMS), now=0)


def test_an_old_token_is_told_that_it_is_old() -> None:
    with pytest.raises(TokenExpired):
        check_token([NEW], make_token([NEW], CLAIMS), now=1_000)


def test_a_forged_token_is_not_told_that_it_is_old() -> None:
    with pytest.raises(TokenForged):
        check_token([NEW], make_token([FOREIGN], CLAIMS), now=2_000)


@pytest.mark.parametrize("token", ["", "v1", "v1..", "v2.a.b", "v1.a.b.c", "x" * 5000, "v1.ä.b", "v1.é.", "v1.W10.!!"])
def test_what_has_not_the_form_of_a_token_is_malformed(token: str) -> None:
    with pytest.raises((TokenMalformed, TokenForged)) as caught:
        check_token([NEW], token, now=0)
    assert token == "" or token not in caught.value.message


@given(st.data())
def test_no_altered_token_counts(data: st.DataObject) -> None:
    token = make_token([NEW], CLAIMS)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != token[place]))
    with pytest.raises(TokenInvalid):
        check_token([NEW], token[:place] + other + token[place + 1 :], now=0)


@given(st.text(max_size=300))
def test_any_text_is_refused_and_never_breaks_us(text: str) -> None:
    with pytest.raises(TokenInvalid):
        check_token([NEW], text, now=0)


@given(
    st.builds(
        Claims,
        request_id=st.text(min_size=1, max_size=256),
        revision=st.text(min_size=1, max_size=64),
        expires_at=st.integers(1, 2**50),
        slices=st.dictionaries(st.sampled_from(["team", "feature"]), st.text(max_size=16)),
    ).filter(lambda claims: claims.request_id.isprintable() and claims.revision.isprintable())
)
def test_any_claims_come_back(claims: Claims) -> None:
    token = make_token([NEW], claims)
    if len(token) <= MAX_TOKEN_CHARACTERS:
        assert check_token([NEW], token, now=0) == claims


def test_keys_of_a_file_one_to_the_line(tmp_path: Path) -> None:
    path = tmp_path / "feedback"
    path.write_bytes(NEW + b"\n\n" + OLD + b"\n")
    assert load_keys(path) == [NEW, OLD]


@pytest.mark.parametrize(("content", "words"), [(b"\n", "holds no key"), (b"n" * 32 + b"\nshort", "key 2 .* shorter")])
def test_a_file_of_keys_that_protect_nothing_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "feedback"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_keys(path)


def test_rotated_keys_are_seen_and_a_broken_file_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("rlhf_server.live.tokens.time.monotonic", lambda: clock[0])
    path = tmp_path / "feedback"
    path.write_bytes(OLD)
    ring = KeyFile(path)
    path.write_bytes(NEW + b"\n" + OLD)
    clock[0] += 5
    assert ring.keys() == [NEW, OLD]
    path.write_bytes(b"")
    clock[0] += 5
    assert ring.keys() == [NEW, OLD]
    path.unlink()
    clock[0] += 5
    assert ring.keys() == [NEW, OLD]
