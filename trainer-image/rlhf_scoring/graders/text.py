"""Graders that look at the response alone: pattern, JSON schema, length."""

import json
from typing import Any, NoReturn

import jsonschema
import referencing
import regex
from jsonschema.validators import extend

from rlhf_operator.api.shared import JSONSchemaGrader, LengthGrader, LengthUnit, RegexGrader, RegexMatch
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.judge import Judgement, Missing, Row, TextGrader, digest_of, row_number

PATTERN_SECONDS = 0.5
"""Longest run of one pattern on one text; beyond it the row has no score."""


class Regex(TextGrader):
    """1 when the response matches (or, negated, does not), else 0."""

    def __init__(self, scorer: str, config: RegexGrader) -> None:
        super().__init__(digest_of("regex/1", config.dump()))
        self._pattern = _compile(scorer, config.pattern)
        self._whole = config.match is RegexMatch.FULL_MATCH
        self._negate = config.negate

    def grade(self, response: str, row: Row) -> Judgement:
        """Match under a time-out."""
        match = self._pattern.fullmatch if self._whole else self._pattern.search
        try:
            matched = match(response, timeout=PATTERN_SECONDS) is not None
        except TimeoutError:
            return _late(row, "the pattern")
        return float(matched != self._negate)


class JSONSchema(TextGrader):
    """1 when the response is one JSON document that fits the schema, else 0."""

    def __init__(self, scorer: str, config: JSONSchemaGrader) -> None:
        super().__init__(digest_of("json-schema/1", config.dump()))
        base = jsonschema.validators.validator_for(config.schema_, default=jsonschema.Draft202012Validator)
        try:
            base.check_schema(config.schema_)
        except jsonschema.SchemaError as error:
            raise ScorerConfigError(scorer, f"jsonSchema.schema is not a JSON Schema: {error.message}") from error
        # An empty registry: the library would otherwise fetch remote references over the network.
        # The pattern keywords run on an engine with a time-out.
        timed: Any = extend(base, {"pattern": _pattern, "patternProperties": _pattern_properties})  # type: ignore[no-untyped-call]
        self._validator = timed(config.schema_, registry=referencing.Registry())
        try:
            self._validator.is_valid(None)
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise ScorerConfigError(
                scorer, f"jsonSchema.schema: a $ref does not resolve inside it ({error})"
            ) from error

    def grade(self, response: str, row: Row) -> Judgement:
        """Parse strictly (no NaN, nothing around the document) and validate."""
        try:
            return float(self._validator.is_valid(json.loads(response, parse_constant=_refuse)))
        except TimeoutError:
            return _late(row, "a pattern of the schema")
        except (ValueError, RecursionError):
            return 0.0
        except referencing.exceptions.Unresolvable as error:
            return Missing(f"a $ref of the schema does not resolve inside it ({error})")


class Length(TextGrader):
    """1 between min and max, falling linearly to 0 over slack beyond them."""

    def __init__(self, config: LengthGrader) -> None:
        super().__init__(digest_of("length/1", config.dump()))
        self._config = config

    def grade(self, response: str, row: Row) -> Judgement:
        """Measure in the configured unit."""
        words = self._config.unit is LengthUnit.WORDS
        return length_score(len(response.split()) if words else len(response), self._config)


def length_score(length: int, config: LengthGrader) -> float:
    """The score of a length: 1 inside the bounds, 0 from `slack` beyond them on."""
    short = (config.min or 0) - length
    long = 0 if config.max is None else length - config.max
    distance = max(short, long, 0)
    if distance == 0:
        return 1.0
    return max(0.0, 1.0 - distance / config.slack) if config.slack else 0.0


def _late(row: Row, what: str) -> Missing:
    return Missing(f"row {row_number(row)}: {what} ran longer than {PATTERN_SECONDS} s", timed_out=True, failed=True)


def _compile(scorer: str, pattern: str) -> "regex.Pattern[str]":
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ScorerConfigError(scorer, f"regex.pattern does not compile: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _matches(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Any:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, schema: Any) -> Any:
    if isinstance(instance, dict):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)
