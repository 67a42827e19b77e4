"""Redaction with the real recognisers: what is found, how it is evaded, that the rest of a text stays."""

import string
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from presidio_analyzer import Pattern, PatternRecognizer, pattern_recognizer

from rlhf_operator.api.policyrollout import Redaction
from rlhf_server.live.folding import fold
from rlhf_server.live.recognizers import Finder, PatternGaveUp
from rlhf_server.live.redaction import MAX_TEXT_CHARACTERS, Redactor

STRICT = Redactor(Redaction.STRICT, Finder(strict=True))
STANDARD = Redactor(Redaction.STANDARD, Finder(strict=False))
BOTH = pytest.mark.parametrize("redactor", [STANDARD, STRICT], ids=["Standard", "Strict"])

PERSONAL = [
    ("write to john.doe@example.com today", "write to <EMAIL_ADDRESS> today"),
    ("write to john.doe@corp.internal today", "write to <EMAIL_ADDRESS> today"),
    ("call +49 30 901820 now", "call <PHONE_NUMBER> now"),
    ("call 212-555-0123 now", "call <PHONE_NUMBER> now"),
    ("card 4111 1111 1111 1111 please", "card <CREDIT_CARD> please"),
    ("to DE89 3704 0044 0532 0130 00 please", "to <IBAN_CODE> please"),
    ("to GB82WEST12345698765432 please", "to <IBAN_CODE> please"),
    ("from 203.0.113.77 it came", "from <IP_ADDRESS> it came"),
    ("from 2001:db8::8a2e:370:7334 it came", "from <IP_ADDRESS> it came"),
    ("my SSN is 536-90-4399 ok", "my SSN is <US_SSN> ok"),
    ("password: hunter2secret ok", "<CREDENTIAL> ok"),
    ("key AKIAIOSFODNN7EXAMPLE ok", "key <CREDENTIAL> ok"),
]


@BOTH
@pytest.mark.parametrize(("text", "redacted"), PERSONAL)
def test_personal_data_is_replaced_and_the_rest_stays(redactor: Redactor, text: str, redacted: str) -> None:
    assert redactor.text(text) == redacted


EVASIONS = [
    ("full width", "write to ｊｏｈｎ＠ｅｘａｍｐｌｅ．ｃｏｍ now", "write to <EMAIL_ADDRESS> now"),
    ("Cyrillic letters", "write to jоhn@еxаmple.cоm now", "write to <EMAIL_ADDRESS> now"),
    ("zero width", "write to jo\u200bhn@exam\u200dple.c\u2060om now", "write to <EMAIL_ADDRESS> now"),
    ("soft hyphens", "card 4111\u00ad1111\u00ad1111\u00ad1111 now", "card <CREDIT_CARD> now"),
    ("full-width digits", "card ４１１１ １１１１ １１１１ １１１１ now", "card <CREDIT_CARD> now"),
    ("Arabic digits", "card ٤١١١ ١١١١ ١١١١ ١١١١ now", "card <CREDIT_CARD> now"),
    ("mathematical digits", "ip 𝟐𝟎𝟑.𝟎.𝟏𝟏𝟑.𝟕𝟕 now", "ip <IP_ADDRESS> now"),
    ("other dashes", "call 212‐555‑0123 now", "call <PHONE_NUMBER> now"),
    ("struck through", "card 4\u03361\u03361\u03361\u0336 1111 1111 1111 now", "card <CREDIT_CARD> now"),
    ("letters as digits", "card 4111 1111 1111 111Ӏ now", "card <CREDIT_CARD> now"),
    ("no-break spaces", "to DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000 now", "to <IBAN_CODE> now"),
    ("Greek capitals", "to ΗU42117730161111101800000000 now", "to <IBAN_CODE> now"),
]


@BOTH
@pytest.mark.parametrize(("text", "redacted"), [case[1:] for case in EVASIONS], ids=[case[0] for case in EVASIONS])
def test_letters_that_only_look_alike_hide_nothing(redactor: Redactor, text: str, redacted: str) -> None:
    assert redactor.text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "john [at] example [dot] com",
        "john at example dot com",
        "order 12345678",
        "born on 1980-04-23",
        "see https://intranet.example/u/77",
        "id 123e4567-e89b-12d3-a456-4266141740aa",
    ],
)
def test_strict_takes_more_than_standard(text: str) -> None:
    assert STANDARD.text(text) == text
    assert "<" in STRICT.text(text)


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "Привет! Как дела? Привёз 12 яблок.",
        "Σήμερα ο καιρός είναι καλός",
        "東京の天気はどうですか。",
        "The answer is 42, chapter 3.1, in 2024.",
        "naïve café, Müller, Łódź",
        "x = [1, 2, 3]; y = x[0] + 7",
        "e\u0301tude \u200d zero",
        "",
    ],
)
def test_ordinary_text_stays_letter_for_letter(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


def test_json_is_redacted_at_every_depth_names_of_fields_too() -> None:
    call = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "I am a@example.com"}]}],
        "tools": [{"function": {"name": "pay", "arguments": '{"card": "4111111111111111", "n": 2}'}}],
        "a@example.com": True,
        "number": 4111111111111111,
        "small": 7,
        "nothing": None,
    }
    assert STANDARD.json(call) == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "I am <EMAIL_ADDRESS>"}]}],
        "tools": [{"function": {"name": "pay", "arguments": '{"card": "<CREDIT_CARD>", "n": 2}'}}],
        "<EMAIL_ADDRESS>": True,
        "number": "<CREDIT_CARD>",
        "small": 7,
        "nothing": None,
    }


def test_what_is_too_long_or_too_deep_is_replaced_whole() -> None:
    assert STANDARD.text("a" * (MAX_TEXT_CHARACTERS + 1)) == "<TOO_LONG>"
    deep: object = "a@example.com"
    for _ in range(100):
        deep = [deep]
    assert "a@example.com" not in str(STANDARD.json(deep))


def test_a_long_text_is_searched_to_its_end_across_the_pieces() -> None:
    filler = "lorem ipsum " * 7000
    text = "".join(filler[i : i + 9000] + " john@example.com " for i in range(0, len(filler), 9000))
    assert "john" not in STANDARD.text(text)


ASCII = st.text(string.ascii_letters + string.digits + " .,:;!?-@/\n", max_size=30)
ANY = st.text(max_size=30)
SEPARATOR = st.sampled_from(["", " ", "-", ".", "\u00a0", "\u200b", "\u00ad"])


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """A card, a phone number or an account number, written with some separator."""
    digits = draw(st.sampled_from(["4111111111111111", "5500005555555559", "493090182012", "12125550123", "36904399"]))
    return draw(SEPARATOR).join(digits[i : i + 4] for i in range(0, len(digits), 4))


@st.composite
def planted(draw: st.DrawFn) -> str:
    """Something that must not survive."""
    word = st.text(string.ascii_lowercase, min_size=3, max_size=8)
    return draw(
        st.one_of(
            numbers(),
            st.builds("{}@{}.com".format, word, word),
            st.builds("{}.{}@{}.internal".format, word, word, word),
            st.ip_addresses(v=4).map(str),
            st.sampled_from(["2001:db8::8a2e:370:7334", "DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"]),
        )
    )


DISGUISES = [
    lambda text: text,
    lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    lambda text: text.translate(str.maketrans("aeopc", "аеорс")),
    lambda text: "\u200b".join(text),
]


def plain(text: str) -> str:
    return "".join(c for c in fold(text).text.casefold() if c.isalnum())


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=st.one_of(ASCII, ANY), secret=planted(), after=st.one_of(ASCII, ANY), how=st.sampled_from(DISGUISES))
def test_a_planted_secret_never_survives_strict(before: str, secret: str, after: str, how: object) -> None:
    assert callable(how)
    redacted = STRICT.text(f"{before}{how(secret)}{after}")
    assert plain(secret) not in plain(redacted)


@BOTH
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.lists(st.one_of(ASCII, ANY, planted(), st.just("<EMAIL_ADDRESS>")), max_size=5))
def test_redacting_again_changes_nothing(redactor: Redactor, parts: list[str]) -> None:
    once = redactor.text("".join(parts))
    assert redactor.text(once) == once


def test_a_long_answer_takes_well_under_a_second() -> None:
    text = "The quick brown fox called 212-555-0123 and paid 12 dollars on page 42. " * 60
    started = time.perf_counter()
    STRICT.text(text)
    assert time.perf_counter() - started < 3


def test_a_pattern_that_takes_too_long_keeps_the_text_from_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = PatternRecognizer("SLOW", name="slow", patterns=[Pattern("slow", r"(x+x+)+y", 0.9)])
    monkeypatch.setattr(pattern_recognizer, "REGEX_TIMEOUT_SECONDS", 0.05)
    Finder(strict=True)
    finder = Finder(strict=False)
    finder._analyzer.registry.add_recognizer(slow)
    with pytest.raises(PatternGaveUp):
        Redactor(Redaction.STANDARD, finder).text("x" * 5000)
    assert Redactor(Redaction.STANDARD, finder).text("fine") == "fine"


def test_a_model_that_is_not_installed_is_named() -> None:
    with pytest.raises(OSError, match="en_core_web_zz is not installed"):
        Finder(strict=True, ner_model="en_core_web_zz")
