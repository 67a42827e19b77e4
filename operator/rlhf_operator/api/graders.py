"""Scorers: what can judge a text, by reward model or by grader. The judging itself is in rlhf_scoring."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .base import Model, Rule
from .data import ConfigMapSource, LocalSecretRef
from .scalars import HTTPURL, Between, Column, Digest, Duration, EntryName, ObjectName, OpenObject, ShortText

Timeout = Annotated[Duration, Between("1s", "10m")]


class OnError(StrEnum):
    """What becomes of a text that a grader fails on."""

    MISSING = "Missing"
    FAIL = "Fail"


class FinalAnswerGrader(Model):
    """1 when the final answer equals the reference (as a number, or as text), else 0."""

    answer_column: Column = "answer"
    """Column of the reference answer."""


class UnitTestsGrader(Model):
    """Runs the row's hidden tests against the code in the response: 1 pass, -1 error, 0 time-out."""

    tests_column: Column = "tests"
    """Column that holds the tests, as Python source."""
    timeout: Timeout = Duration("10s")
    """Longest run of one response's tests."""


class RegexMatch(StrEnum):
    """How much of the response the pattern must cover."""

    SEARCH = "Search"
    FULL_MATCH = "FullMatch"


class RegexGrader(Model):
    """1 when the response matches a pattern, else 0."""

    pattern: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """The pattern, in Python's syntax; it runs under a time-out."""
    match: RegexMatch = RegexMatch.SEARCH
    """Search finds the pattern anywhere, FullMatch wants the whole response."""
    negate: bool = False
    """Turns the score round: 1 when the pattern does not match."""


class JSONSchemaGrader(Model):
    """1 when the response is JSON that fits a schema, else 0."""

    schema_: OpenObject
    """The JSON Schema (2020-12); references to other documents are not followed."""


class LengthUnit(StrEnum):
    """What a length counts."""

    WORDS = "Words"
    CHARACTERS = "Characters"


class LengthGrader(Model):
    """1 when the length lies between min and max, falling linearly to 0 over slack outside of them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.min) || has(self.max)", "set min, max or both: a length without a bound judges nothing"),
        Rule("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be greater than max"),
    )

    unit: LengthUnit = LengthUnit.WORDS
    """What is counted: words (separated by white space) or characters."""
    min: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Shortest length that scores 1."""
    max: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Longest length that scores 1."""
    slack: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Distance beyond min or max at which the score reaches 0; 0 is a hard edge."""


class OverlapMetric(StrEnum):
    """A measure of how much two texts share."""

    ROUGE_L = "ROUGE-L"
    ROUGE_1 = "ROUGE-1"
    BLEU = "BLEU"
    CHRF = "chrF"


class OverlapGrader(Model):
    """How much the response shares with a reference text, between 0 and the cap."""

    metric: OverlapMetric = OverlapMetric.ROUGE_L
    """The measure, on a scale of 0 to 1."""
    reference_column: Column = "chosen"
    """Column of the reference text."""
    cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Highest score: overlap beyond it earns nothing more, so that copying does not pay."""


class PythonGrader(Model):
    """A Python function that scores responses."""

    one_of: ClassVar[tuple[str, ...]] = ("entry_point", "config_map")
    entry_point: (
        Annotated[
            str,
            StringConstraints(
                pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$", max_length=253
            ),
        ]
        | None
    ) = None
    """A function in the trainer image, as `module:function`."""
    config_map: ConfigMapSource | None = None
    """A ConfigMap key that holds the source file."""
    function: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] = "grade"
    """The function in the ConfigMap's file."""
    timeout: Timeout = Duration("10s")
    """Longest time for one call."""


class HTTPGrader(Model):
    """A service that scores responses. Texts go to it only when its host is on the operator's allow-list.

    It is sent `{"items": [{"prompt", "response", "row"}]}` and answers `{"scores": […]}`, in order: a number,
    null where it has no score, or `{"error": "why"}`.
    """

    url: HTTPURL
    """Address that takes the rows by POST."""
    timeout: Timeout = Duration("30s")
    """Longest time for one request; it is tried again, with pauses, for up to 5 minutes."""
    secret_ref: LocalSecretRef | None = None
    """Secret with key `token`, sent as bearer token."""


class LLMJudgeGrader(Model):
    """A language model behind an OpenAI-compatible address that judges by a rubric."""

    url: HTTPURL
    """Base address of the OpenAI-compatible API; its host must be on the operator's allow-list."""
    model: ShortText
    """Name of the model there."""
    rubric: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    """What makes an answer good, in words; or one name of those that ship: `groundedness` (the sources support it),
    `factuality` (it states what is true), `safety` (it is safe to show), `jailbreak` (an attack is resisted), `guard`
    (the model is a guard model with a rubric of its own, such as Llama Guard)."""
    both_orders: bool = True
    """Ask for each pair in both orders, so that the place of an answer does not count."""
    timeout: Timeout = Duration("1m")
    """Longest time for one request."""
    secret_ref: LocalSecretRef | None = None
    """Secret with key `token`, sent as bearer token."""


class Grader(Model):
    """A rule that judges a text: exactly one kind."""

    one_of: ClassVar[tuple[str, ...]] = (
        "final_answer",
        "unit_tests",
        "regex",
        "json_schema",
        "length",
        "overlap",
        "python",
        "http",
        "llm_judge",
    )

    final_answer: FinalAnswerGrader | None = None
    """Compares the final answer with the reference."""
    unit_tests: UnitTestsGrader | None = None
    """Runs hidden tests."""
    regex: RegexGrader | None = None
    """Matches a pattern."""
    json_schema: JSONSchemaGrader | None = None
    """Validates JSON."""
    length: LengthGrader | None = None
    """Rewards a length."""
    overlap: OverlapGrader | None = None
    """Compares with a reference text."""
    python: PythonGrader | None = None
    """Calls a Python function."""
    http: HTTPGrader | None = None
    """Asks a service."""
    llm_judge: LLMJudgeGrader | None = None
    """Asks a language model."""
    on_error: OnError = OnError.MISSING
    """What follows when the grader raises, gives no number or takes longer than its timeout: Missing leaves the text
    without a score (it leaves its group, and a warning names row and reason), Fail ends the run. A text that the grader
    has nothing to say of (None, a row without the column) is never an error; unit tests that take too long score 0."""


class RewardModelRef(Model):
    """A RewardModel of the same namespace."""

    name: ObjectName
    """Name of the RewardModel."""
    version: Digest | None = None
    """Version to use; when unset the current one is used, recorded and kept."""


class Scorer(Model):
    """What judges a text: a reward model or a grader."""

    one_of: ClassVar[tuple[str, ...]] = ("reward_model_ref", "grader")

    reward_model_ref: RewardModelRef | None = None
    """A RewardModel of the same namespace; the object waits until it has a version that passed its gate."""
    grader: Grader | None = None
    """A rule."""


class NamedScorer(Scorer):
    """A scorer with the name that the rest of the spec uses for it."""

    name: EntryName
    """Name of the scorer, unique in the list."""
