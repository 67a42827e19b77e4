"""The types and the CRD say the same: what one takes the other takes, with the same defaults."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rlhf_operator.api.crd import KINDS, custom_resource_definition
from rlhf_operator.api.meta import Kind
from rlhf_operator.api.rlhfjob import RLHFJob

ROOT = Path(__file__).parents[3]
TYPES: dict[str, type[Kind]] = {kind.__name__: kind for kind in KINDS}

Path_ = tuple[str | int, ...]


@functools.cache
def examples() -> list[dict[str, Any]]:
    files = sorted((ROOT / "examples").rglob("*.yaml"))
    documents = (document for file in files for document in yaml.safe_load_all(file.read_text("utf-8")))
    return [document for document in documents if document and document["kind"] in TYPES]


def pattern_rule(
    validator: object, rules: list[dict[str, str]], value: object, schema: dict[str, Any]
) -> Iterator[jsonschema.ValidationError]:
    """The part of a CEL rule that is a pattern: how durations are written."""
    for rule in rules:
        match = re.match(r"self\.matches\('([^']+)'\)", rule["rule"])
        if match and isinstance(value, str) and not re.match(match.group(1), value):
            yield jsonschema.ValidationError(rule["message"])


# OpenAPI v3.0's bounds are those of draft 4: an exclusive bound is a flag.
Validator = jsonschema.validators.extend(jsonschema.Draft4Validator, {"x-kubernetes-validations": pattern_rule})  # type: ignore[no-untyped-call]


@functools.cache
def validator(kind: type[Kind]) -> Any:
    """Checks a spec against the CRD's schema."""
    schema = custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return Validator(schema["properties"]["spec"])


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from leaves(child, (*path, index))
    else:
        yield path


def replaced(value: Any, path: Path_, leaf: Any) -> Any:
    result = copy.deepcopy(value)
    node = result
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = leaf
    return result


def types_refuse(kind: type[Kind], spec: dict[str, Any]) -> list[str]:
    """The paths that pydantic refuses by type, bound, enum or pattern; rules of ours are CEL's in the CRD."""
    try:
        kind.part("spec").model_validate_json(json.dumps(spec), strict=True)
    except ValidationError as error:
        return [".".join(map(str, e["loc"])) for e in error.errors() if e["type"] != "value_error"]
    return []


LEAVES = st.one_of(
    st.integers(-2, 3),
    st.sampled_from([-(10**7), 10**7, 10**12]),
    st.floats(-2, 2, allow_nan=False).filter(lambda x: not x.is_integer()),
    st.booleans(),
    st.sampled_from(
        ["", "a", "Pairs", "None", "30m", "5 minutes", "1.5", "../x", "sha256:0", "a" * 300, "A_b", "true"]
    ),
)


@st.composite
def changed_examples(draw: st.DrawFn) -> tuple[type[Kind], dict[str, Any]]:
    example = draw(st.sampled_from(examples()))
    spec = example["spec"]
    open_objects = ("template", "schema", "provenance")
    paths = [path for path in leaves(spec) if not any(step in open_objects for step in path)]
    return TYPES[example["kind"]], replaced(spec, draw(st.sampled_from(paths)), draw(LEAVES))


@settings(max_examples=5 * settings.default.max_examples)
@given(changed_examples())
def test_types_and_schema_refuse_the_same(changed: tuple[type[Kind], dict[str, Any]]) -> None:
    kind, spec = changed
    by_schema = [".".join(map(str, error.absolute_path)) for error in validator(kind).iter_errors(spec)]
    by_types = types_refuse(kind, spec)
    by_rule = not by_types and refused_by_our_own_rule(kind, spec)
    assert bool(by_schema) == bool(by_types) or (not by_schema and by_rule), (by_schema, by_types)


def refused_by_our_own_rule(kind: type[Kind], spec: dict[str, Any]) -> bool:
    """Refused in the types by a check that the CRD has as CEL (which a JSON Schema validator does not run)."""
    try:
        kind.part("spec").model_validate_json(json.dumps(spec), strict=True)
    except ValidationError:
        return True
    return False


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server makes of an object: defaults of fields that are missing, from the outside in."""
    if isinstance(value, dict):
        result = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in result and "default" in child:
                result[name] = copy.deepcopy(child["default"])
            if name in result:
                result[name] = with_defaults(result[name], child)
        return result
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    return value


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e['kind']}-{e['metadata']['name']}")
def test_the_crds_defaults_change_nothing_for_the_types(example: dict[str, Any]) -> None:
    kind = TYPES[example["kind"]]
    completed = with_defaults(example["spec"], validator(kind).schema)
    part = kind.part("spec")
    assert part.model_validate(completed) == part.model_validate(example["spec"])
    written = part.model_validate(example["spec"]).dump()
    assert missing_defaults(written, completed) == []


def missing_defaults(written: Any, completed: Any, path: str = "") -> list[str]:
    """Fields that the types fill in and the CRD does not, other than empty lists and maps."""
    if isinstance(written, dict) and isinstance(completed, dict):
        missing = [f"{path}.{key}" for key in written if key not in completed and written[key] not in ([], {})]
        for key in written.keys() & completed.keys():
            missing += missing_defaults(written[key], completed[key], f"{path}.{key}")
        return missing
    if isinstance(written, list) and isinstance(completed, list):
        pairs = zip(written, completed, strict=True)
        return [found for one, other in pairs for found in missing_defaults(one, other, f"{path}[]")]
    return []


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e['kind']}-{e['metadata']['name']}")
def test_json_and_back_is_the_same_object(example: dict[str, Any]) -> None:
    kind = TYPES[example["kind"]]
    parsed = kind.model_validate(example)
    assert kind.model_validate(parsed.dump()) == parsed
    assert kind.model_validate_json(parsed.model_dump_json()) == parsed


def test_a_job_knows_its_algorithm_and_its_ranks() -> None:
    jobs = {e["metadata"]["name"]: RLHFJob.model_validate(e) for e in examples() if e["kind"] == "RLHFJob"}
    assert jobs["assistant-7"].spec.algorithm == "PPO"
    assert jobs["writer-kto"].spec.algorithm == "KTO"
    assert jobs["assistant-7"].spec.compute.world_size == 32
    assert jobs["writer-dpo"].spec.compute.world_size == 1


def test_a_boolean_is_no_zero_stage() -> None:
    """Found by the property above: Python takes False for 0, the API server does not."""
    example = next(e for e in examples() if e["kind"] == "RLHFJob")
    spec = replaced(example["spec"], ("compute",), {"workers": 1, "zeroStage": False})
    assert types_refuse(TYPES["RLHFJob"], spec) == ["compute.zeroStage"]
