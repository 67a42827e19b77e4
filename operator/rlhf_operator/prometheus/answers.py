"""What an answer of Prometheus's HTTP API means: a figure, or the problem in our own words. Never the body's words."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from rlhf_operator.common.measurements import Problem, ProblemReason, Sample, Value

# Prometheus's own words for kinds of errors: any other text stays in the answer.
_ERROR_TYPES = frozenset(
    {"timeout", "canceled", "execution", "bad_data", "internal", "unavailable", "not_found", "not_acceptable"}
)
# A caching proxy may hand out an answer to an older question; the API rounds times to milliseconds.
_SAME_TIME_SECONDS = 0.5

_Point = tuple[float, str]


class _Series(BaseModel):
    value: _Point | None = None
    """None: a native histogram."""


class _Vector(BaseModel):
    resultType: Literal["vector"]  # noqa: N815
    result: list[_Series]


class _Scalar(BaseModel):
    resultType: Literal["scalar"]  # noqa: N815
    result: _Point


class _Other(BaseModel):
    resultType: Literal["matrix", "string"]  # noqa: N815
    result: Any


class _Answer(BaseModel):
    status: Literal["success"]
    data: Annotated[_Vector | _Scalar | _Other, Field(discriminator="resultType")]
    warnings: list[Any] = []


class _Refusal(BaseModel):
    status: Literal["error"]
    errorType: str  # noqa: N815


_ANSWER = TypeAdapter(_Answer)
_REFUSAL = TypeAdapter(_Refusal)


def sample(status: int, body: bytes, at: float | None) -> Sample:
    """What an answer to an instant query says.

    at: the evaluation time that was asked for (Unix seconds); None when the server chose it.
    """
    if status != 200:
        return _refused(status, body)
    try:
        answer = _ANSWER.validate_json(body)
    except ValidationError:
        return Problem(
            ProblemReason.NOT_PROMETHEUS, "the answer is not one of Prometheus's API: is the address its base URL?"
        )
    if answer.warnings:
        return Problem(
            ProblemReason.INCOMPLETE, "Prometheus warned about its answer: part of the data may be missing from it"
        )
    match answer.data:
        case _Scalar(result=point):
            return _figure(point, at)
        case _Vector(result=[]):
            return Problem(ProblemReason.EMPTY, "no series at this time")
        case _Vector(result=[series]):
            if series.value is None:
                return Problem(
                    ProblemReason.WRONG_TYPE, "the result is a native histogram; take histogram_quantile of it"
                )
            return _figure(series.value, at)
        case _Vector(result=several):
            return Problem(
                ProblemReason.SEVERAL_SERIES,
                f"{len(several)} series where one is needed: aggregate them, for example by sum()",
                series=len(several),
            )
        case _Other(resultType="matrix"):
            return Problem(
                ProblemReason.WRONG_TYPE, "the result is a range of samples; apply a function such as rate() to it"
            )
        case _:
            return Problem(ProblemReason.WRONG_TYPE, "the result is a text, not a figure")


def _figure(point: _Point, at: float | None) -> Sample:
    when, text = point
    if at is not None and abs(when - at) > _SAME_TIME_SECONDS:
        return Problem(
            ProblemReason.STALE,
            f"the answer is for a time {abs(when - at):.0f} s off the one that was asked for: is a cache between?",
        )
    try:
        value = float(text)
    except ValueError:
        return Problem(ProblemReason.NOT_PROMETHEUS, "the figure in the answer is no number")
    if math.isnan(value):
        return Problem(ProblemReason.NOT_A_NUMBER, "the result is NaN, as 0 / 0 gives: were there no requests?")
    if math.isinf(value):
        return Problem(ProblemReason.INFINITE, "the result is infinite, as a division by 0 gives")
    return Value(value)


def _refused(status: int, body: bytes) -> Problem:
    kind = _error_type(body)
    said = f"HTTP {status}" + (f" ({kind})" if kind else "")
    if status in (401, 403):
        return Problem(
            ProblemReason.UNAUTHORIZED, f"{said}: the credentials in the Secret are missing, wrong or not enough"
        )
    if kind == "timeout" or status == 408:
        return Problem(ProblemReason.TIMEOUT, f"{said}: the query ran longer than Prometheus lets it")
    if status in (400, 422):
        return Problem(
            ProblemReason.QUERY_ERROR, f"{said}: Prometheus refuses the query; try it on Prometheus's own page"
        )
    if status == 429 or status >= 500:
        return Problem(ProblemReason.UNREACHABLE, f"{said}: Prometheus can't answer now")
    if 300 <= status < 400:
        return Problem(
            ProblemReason.NOT_PROMETHEUS, f"{said}: redirects are not followed; give the address they lead to"
        )
    return Problem(ProblemReason.NOT_PROMETHEUS, f"{said}: no Prometheus API there; is the address its base URL?")


def _error_type(body: bytes) -> str | None:
    try:
        kind = _REFUSAL.validate_json(body).errorType
    except ValidationError:
        return None
    return kind if kind in _ERROR_TYPES else None
