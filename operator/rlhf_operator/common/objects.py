"""A kind's spec and status as the API server holds them, read with our types. Deciding by them is the kinds'."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from rlhf_operator.api.base import Model, StatusModel

from .intents import Manifest

SpecT = TypeVar("SpecT", bound=Model)
StatusT = TypeVar("StatusT", bound=StatusModel)


def spec_of(obj: Manifest, spec: type[SpecT]) -> tuple[SpecT | None, str]:
    """Return the spec, or None and what is wrong with it and where."""
    try:
        return spec.model_validate(obj.get("spec") or {}), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return None, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def status_of(obj: Manifest, status: type[StatusT]) -> StatusT:
    """Return what can be read of the status: one field that somebody broke must not hide the rest."""
    raw = obj.get("status") or {}
    try:
        return status.model_validate(raw)
    except ValidationError as error:
        broken = {str(each["loc"][0]) for each in error.errors(include_url=False, include_input=False)}
        return status.model_validate({name: value for name, value in raw.items() if name not in broken})
