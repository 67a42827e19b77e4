"""The scalar types of the API: durations, quantities, names, digests, and their bounds. No kind lives here."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .base import Rule

_DURATION = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"
_DURATION_MAX_LENGTH = 32
_DURATION_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class Duration(str):
    """A GEP-2257 duration such as `1h30m` or `500ms`; `.seconds` is its length."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(self))

    @property
    def timedelta(self) -> timedelta:
        """The length as a timedelta."""
        return timedelta(seconds=self.seconds)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(pattern=_DURATION, max_length=_DURATION_MAX_LENGTH),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )


class Between(NamedTuple):
    """Bounds of a duration; one rule for form and bounds, so that the message can say what is wanted."""

    low: str
    high: str

    @property
    def message(self) -> str:
        """What a user reads."""
        return f"must be a duration between {self.low} and {self.high}, such as 30s or 1h30m"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = Rule(
            f"self.matches('{_DURATION}') && duration(self) >= duration('{self.low}') && "
            f"duration(self) <= duration('{self.high}')",
            self.message,
        )
        return {
            "type": "string",
            "maxLength": _DURATION_MAX_LENGTH,
            "x-kubernetes-validations": [rule.as_schema()],
        }

    def _check(self, value: Duration) -> Duration:
        if not Duration(self.low).seconds <= value.seconds <= Duration(self.high).seconds:
            raise ValueError(self.message)
        return value


def _relative(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must be relative and must not contain '..'")
    return path


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_RELATIVE_PATH = Rule(
    "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
    "must be a path inside the source: relative, without '..'",
)

_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)


def _replace(schema: dict[str, Any], new: dict[str, Any]) -> None:
    kept = {key: schema[key] for key in ("description", "default") if key in schema}
    schema.clear()
    schema.update(new | kept)


def _quantity_schema(schema: dict[str, Any]) -> None:
    _replace(
        schema,
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": _QUANTITY,
            "maxLength": 64,
        },
    )


def _one_or_many_schema(schema: dict[str, Any]) -> None:
    # A structural schema has no "string or list": the type stays open, and bounds that nothing meets refuse the others.
    _replace(
        schema,
        {
            "x-kubernetes-preserve-unknown-fields": True,
            "minLength": 1,
            "maxLength": 253,
            "minItems": 1,
            "maxItems": 16,
            "items": {"type": "string", "minLength": 1, "maxLength": 253},
            "not": {"enum": [True, False]},
            "minimum": 1,
            "maximum": 0,
            "minProperties": 1,
            "maxProperties": 0,
        },
    )


class _Below(NamedTuple):
    """See `below`."""

    limit: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = Rule(f"self < {self.limit}", f"must be less than {self.limit}")
        return handler(schema) | {"x-kubernetes-validations": [rule.as_schema()]}

    def _check(self, value: float) -> float:
        if value >= self.limit:
            raise ValueError(f"must be less than {self.limit}")
        return value


def below(limit: float) -> Any:
    """A fractional upper bound, as CEL.

    The API server cuts bounds to integers for values that have no point: `maximum: 0.5` refuses a `0`.
    """
    return _Below(limit)


Quantity = Annotated[
    str,
    BeforeValidator(_text),
    StringConstraints(pattern=_QUANTITY, max_length=64),
    Field(json_schema_extra=_quantity_schema),
]
"""A Kubernetes quantity; a plain integer is taken too and read as its text."""

ObjectName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", min_length=1, max_length=253)
]
"""The name of a Kubernetes object (a DNS subdomain)."""

EntryName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=40)]
"""The name of an entry in a list that is keyed by name (a short DNS label)."""

Key = Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)]
"""A key of a ConfigMap or Secret."""

Column = Annotated[str, StringConstraints(min_length=1, max_length=253)]
"""The name of a column of a data set."""

ColumnOrColumns = Annotated[
    Column | Annotated[list[Column], Field(min_length=1, max_length=16)],
    Field(json_schema_extra=_one_or_many_schema),
]
"""One column, or several that are joined by a blank line."""

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
"""A short free text."""

RelativePath = Annotated[
    str,
    StringConstraints(max_length=512),
    AfterValidator(_relative),
    Field(json_schema_extra={"x-kubernetes-validations": [_RELATIVE_PATH.as_schema()]}),
]
"""A path inside a source: relative, never upwards."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
"""A SHA-256 digest: `sha256:` and 64 hex digits."""

HTTPURL = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+([/?#]\S*)?$", max_length=1024)]
"""An http or https URL."""

ImageRef = Annotated[str, StringConstraints(pattern=r"^[^\s]+$", min_length=1, max_length=512)]
"""A container image reference."""

DecimalText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$", max_length=20)]
"""A non-negative decimal number as text, so that money is never a float."""

Rate = Annotated[float, Field(ge=0, le=1)]
"""A share between 0 and 1."""

Percent = Annotated[int, Field(ge=0, le=100)]
"""A percentage between 0 and 100."""

OpenObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]
"""An object whose fields are passed on as they are."""

Time = AwareDatetime
"""A point in time (RFC 3339)."""
