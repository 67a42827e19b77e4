"""What counts as personal data: Presidio's pattern recognisers on a blank spaCy pipeline, and broader patterns of ours.

No model is loaded, and none downloaded, unless one for named entities is asked for. Replacing is in redaction.py.
"""

import logging
import os

# Read once, when Presidio is imported. A pattern that takes longer is given up, and the text with it.
os.environ.setdefault("REGEX_TIMEOUT_SECONDS", "5")

import regex
import spacy
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    Pattern,
    PatternRecognizer,
    RecognizerRegistry,
    RecognizerResult,
)
from presidio_analyzer import predefined_recognizers as presidio
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SlimSpacyNlpEngine, SpacyNlpEngine
from spacy.tokens import Doc

LANGUAGE = "en"
"""Presidio keeps recognisers by language; a live request's is unknown, so all of them look at every text."""
STANDARD_SCORE = 0.4
STRICT_SCORE = 0.3

_PERSONS = (
    presidio.CreditCardRecognizer,
    presidio.IbanRecognizer,
    presidio.CryptoRecognizer,
    presidio.IpRecognizer,
    presidio.MacAddressRecognizer,
    presidio.AuMedicareRecognizer,
    presidio.AuTfnRecognizer,
    presidio.CaSinRecognizer,
    presidio.DeSocialSecurityRecognizer,
    presidio.DeTaxIdRecognizer,
    presidio.EsNieRecognizer,
    presidio.EsNifRecognizer,
    presidio.FiPersonalIdentityCodeRecognizer,
    presidio.InAadhaarRecognizer,
    presidio.ItFiscalCodeRecognizer,
    presidio.KrRrnRecognizer,
    presidio.NhsRecognizer,
    presidio.PlPeselRecognizer,
    presidio.SePersonnummerRecognizer,
    presidio.SgFinRecognizer,
    presidio.TrNationalIdRecognizer,
    presidio.UkNinoRecognizer,
    presidio.UsItinRecognizer,
    presidio.UsMbiRecognizer,
    presidio.UsPassportRecognizer,
    presidio.UsSsnRecognizer,
)
_STRICT_ONLY = (presidio.UrlRecognizer, presidio.DateRecognizer, presidio.UuidRecognizer)
_NUMBER = regex.compile(r"\d(?:\D{0,3}\d){6,}+")

# Published forms of credentials: they are nobody's name, and worse to keep.
_CREDENTIALS = [
    Pattern("private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", 0.9),
    Pattern("AWS access key", r"(?-i)\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", 0.9),
    Pattern("GitHub token", r"(?-i)\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b", 0.9),
    Pattern("Slack token", r"\bxox[abprs]-[A-Za-z0-9-]{10,255}", 0.9),
    Pattern("API key", r"\bsk-[A-Za-z0-9_-]{20,255}", 0.9),
    Pattern("JSON web token", r"(?-i)\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", 0.9),
    Pattern("bearer token", r"\bbearer\s+[A-Za-z0-9._~+/-]{16,}=*", 0.9),
    Pattern("password", r"\b(?:password|passwd|passphrase|secret|api[_-]?key)\b\s{0,3}(?:is|=|:)\s{0,3}\S{4,}", 0.6),
    Pattern("credentials in a URL", r"(?<=://)[^\s/:@<>]+:[^\s/@<>]+(?=@)", 0.9),
]
# Without word boundaries and check digits: what Strict would rather lose than keep.
_BROAD = {
    "EMAIL_ADDRESS": [
        Pattern("anything@anything", r"[^\s<>@\"',;()]{1,128}\s?@\s?[^\s<>@\"',;()]{1,255}", 0.9),
        Pattern(
            "at and dot in words",
            r"[\w.+-]{1,64}\s{0,3}[\[({]\s{0,3}at\s{0,3}[\])}]\s{0,3}[\w-]{1,63}"
            r"(?:\s{0,3}(?:\.|[\[({]\s{0,3}dot\s{0,3}[\])}])\s{0,3}[\w-]{1,63}){1,8}",
            0.9,
        ),
        Pattern("spelt out", r"\b[\w.+-]{1,64}\s+at\s+[\w-]{1,63}(?:\s+dot\s+[\w-]{1,63}){1,8}\b", 0.9),
    ],
    "IP_ADDRESS": [
        Pattern("four numbers", r"(?<!\d)(?:\d{1,3}\s?\.\s?){3}\d{1,3}(?!\d)", 0.9),
        Pattern("groups and colons", r"(?:[0-9a-f]{0,8}:){2,}[0-9a-f]{0,8}", 0.9),
    ],
    "IBAN_CODE": [
        Pattern("like an IBAN", r"[a-z]{2}\d{2}[ -]?[a-z0-9]{4}(?:[ -]?(?=[a-z]{0,3}\d)[a-z0-9]{1,4}){2,7}", 0.9)
    ],
    "URL": [Pattern("anything with a scheme", r"[a-z][a-z0-9+.-]{1,31}://[^\s<>]+", 0.5)],
    "NUMBER": [Pattern("seven digits or more", r"\+?\(?\d(?:[\s\-./()]{0,3}\d){6,}", 0.31)],
}


class PatternGaveUp(Exception):
    """A pattern took too long on a text: nobody knows what is in it, so it must not be kept."""


class Email(presidio.EmailRecognizer):
    """Addresses at any domain: Presidio's asks a list of public suffixes, which it would fetch over the network."""

    def validate_result(self, pattern_text: str) -> bool | None:
        """Leave the score as it is: `corp.internal` is a domain too."""
        return None


class Phone(presidio.PhoneRecognizer):
    """Phone numbers, looked for only around seven digits that stand close together: elsewhere it takes too long."""

    def analyze(
        self, text: str, entities: list[str], nlp_artifacts: NlpArtifacts | None = None
    ) -> list[RecognizerResult]:
        """Find them."""
        assert nlp_artifacts is not None
        found: list[RecognizerResult] = []
        for start, end in _around_numbers(text):
            for result in super().analyze(text[start:end], entities, nlp_artifacts):
                result.start, result.end = result.start + start, result.end + start
                found.append(result)
        return found


def _around_numbers(text: str) -> list[tuple[int, int]]:
    """Spans with room on both sides for a country code, brackets and an extension."""
    spans: list[tuple[int, int]] = []
    for match in _NUMBER.finditer(text):
        start, end = max(match.start() - 8, 0), min(match.end() + 16, len(text))
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


class BlankEngine(SlimSpacyNlpEngine):
    """A pipeline that only cuts a text into words; words in lower case stand for lemmas, for recognisers' context."""

    def __init__(self) -> None:
        super().__init__(models=[{"lang_code": LANGUAGE, "model_name": "blank"}], auto_download=False)

    def load(self) -> None:
        """Make the pipeline: nothing is read from disk."""
        self.nlp = {LANGUAGE: spacy.blank(LANGUAGE)}  # type: ignore[assignment]

    def _doc_to_nlp_artifact(self, doc: Doc, language: str) -> NlpArtifacts:
        return NlpArtifacts(
            entities=[],
            tokens=doc,
            tokens_indices=[token.idx for token in doc],
            lemmas=[token.lower_ for token in doc],
            nlp_engine=self,
            language=language,
            scores=[],
        )


class Finder:
    """Finds personal data in folded texts."""

    def __init__(self, *, strict: bool, ner_model: str | None = None) -> None:
        """With the name of an installed spaCy model, names and places are found too. Raises OSError: no such model."""
        self._score = STRICT_SCORE if strict else STANDARD_SCORE
        engine: NlpEngine = BlankEngine()
        recognizers: list[EntityRecognizer] = [made(supported_language=LANGUAGE) for made in _PERSONS]
        recognizers += [Email(supported_language=LANGUAGE), Phone(supported_language=LANGUAGE)]
        # Its weaker patterns look for any ten letters and take longer than all other recognisers together.
        best = [max(presidio.InPanRecognizer.PATTERNS, key=lambda pattern: pattern.score)]
        recognizers.append(presidio.InPanRecognizer(patterns=best, supported_language=LANGUAGE))
        recognizers.append(PatternRecognizer("CREDENTIAL", name="credentials", patterns=_CREDENTIALS))
        if strict:
            recognizers += [made(supported_language=LANGUAGE) for made in _STRICT_ONLY]
            recognizers += [
                PatternRecognizer(entity, name=f"broad {entity}", patterns=p) for entity, p in _BROAD.items()
            ]
        if ner_model is not None:
            if not spacy.util.is_package(ner_model):
                raise OSError(
                    f"spaCy model {ner_model} is not installed in this image: nothing is downloaded at run time"
                )
            engine = SpacyNlpEngine(models=[{"lang_code": LANGUAGE, "model_name": ner_model}])
            recognizers.append(presidio.SpacyRecognizer(supported_language=LANGUAGE))
        registry = RecognizerRegistry(recognizers=recognizers, supported_languages=[LANGUAGE])
        self._analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[LANGUAGE])
        self.entities = frozenset(self._analyzer.get_supported_entities(LANGUAGE))

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and kind of each finding, without overlaps, in order. Raises PatternGaveUp."""
        _WATCH.gave_up = False
        found = self._analyzer.analyze(text, language=LANGUAGE, score_threshold=self._score)
        if _WATCH.gave_up:
            raise PatternGaveUp("a pattern took too long on this text")
        return _merged([(each.start, each.end, each.entity_type, each.score) for each in found])


class _Watch(logging.Filter):
    """Hears of a pattern that timed out: Presidio only logs it, and goes on as if it had found nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.gave_up = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Note it; nothing of Presidio's is logged, since it may quote a text."""
        self.gave_up = self.gave_up or "timed out" in str(record.msg)
        return False


_WATCH = _Watch()
# One for all finders: what a filter holds back no other one hears of.
logging.getLogger("presidio-analyzer").addFilter(_WATCH)


def _merged(found: list[tuple[int, int, str, float]]) -> list[tuple[int, int, str]]:
    """Overlapping findings become one, of the kind that the best scored, then longest, one has."""
    merged: list[tuple[int, int, str, float, int]] = []
    for start, end, kind, score in sorted(found):
        if merged and start < merged[-1][1]:
            first, last, former, best, width = merged[-1]
            better = (score, end - start) > (best, width)
            kept = (kind, score, end - start) if better else (former, best, width)
            merged[-1] = (first, max(last, end), *kept)
        else:
            merged.append((start, end, kind, score, end - start))
    return [(start, end, kind) for start, end, kind, _, _ in merged]
