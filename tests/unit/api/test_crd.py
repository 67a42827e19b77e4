"""The generator, and what must hold for every generated CRD."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from rlhf_operator.api import crd
from rlhf_operator.api.base import IMMUTABLE, Model, Rule, to_camel
from rlhf_operator.api.crd import KINDS, custom_resource_definition, generated_files, main, to_yaml
from rlhf_operator.api.meta import Kind
from rlhf_operator.api.rlhfjob import MUTABLE_FIELDS, RLHFJobSpec
from rlhf_operator.api.structural import _ORDER, structural, tolerant

ROOT = Path(__file__).parents[3]

BOUNDS = {"enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "default"}


@functools.cache
def generated() -> dict[str, str]:
    return generated_files()


@functools.cache
def schema_of(kind: type[Kind]) -> dict[str, Any]:
    version = custom_resource_definition(kind)["spec"]["versions"][0]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            yield from walk(node[name], f"{path}[]")


def test_the_committed_files_are_what_the_types_say() -> None:
    stale = [name for name, text in generated().items() if (ROOT / name).read_text("utf-8") != text]
    assert stale == [], "run `make generate` and commit the result"


def test_check_names_stale_files_and_write_mends_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it writes and compares; making it anew each time takes a second.
    monkeypatch.setattr(crd, "generated_files", generated)
    arguments = ["--root", str(tmp_path)]
    assert main(["--check", *arguments]) == 1
    assert "stale: crds/rlhf.dev_rlhfjobs.yaml" in capsys.readouterr().err
    assert main(["--write", *arguments]) == 0
    (tmp_path / "crds" / "rlhf.dev_rlhfjobs.yaml").write_text("edited", encoding="utf-8")
    capsys.readouterr()
    assert main(["--check", *arguments]) == 1
    assert capsys.readouterr().err == "stale: crds/rlhf.dev_rlhfjobs.yaml\nrun `make generate` and commit the result\n"


def test_generating_twice_gives_the_same() -> None:
    assert generated_files() == generated()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_charts_crd_is_the_same_behind_a_switch_and_kept(kind: type[Kind]) -> None:
    template = generated()[f"charts/rlhf-operator/templates/crds/{kind.plural}.yaml"]
    assert "{{- if .Values.crds.install }}" in template
    # What Helm makes of the template, as far as the CRD uses it.
    body = re.sub(r"(?m)^\{\{-.*\}\}\n|^#.*\n", "", template).replace('{{ "{{" }}', "{{")
    rendered = yaml.load(body, yaml.CSafeLoader)
    assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert rendered == custom_resource_definition(kind)


def spec_nodes() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in KINDS:
        yield from walk(schema_of(kind)["properties"]["spec"], f"{kind.__name__}.spec")


def test_every_text_and_list_of_a_spec_has_a_bound() -> None:
    """CEL's cost is estimated from the bounds; without one a rule over the field exceeds the budget."""
    unbounded = [
        path
        for path, node in spec_nodes()
        if (node.get("type") == "string" and not {"maxLength", "enum", "format"} & node.keys())
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_nothing_is_said_that_a_structural_schema_can_not_say() -> None:
    """The API server refuses a CRD that says more."""
    more = {"not", "nullable", "minProperties", "maxProperties", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum"}
    known = set(_ORDER) | BOUNDS | more
    unknown = [(path, key) for path, node in spec_nodes() for key in node if key not in known and key[:2] != "x-"]
    assert unknown == []


def test_bounds_are_whole_numbers() -> None:
    """The API server cuts a bound to an integer when the value has no point: `maximum: 0.5` refuses `0`."""
    fractional = [
        path for path, node in spec_nodes() for bound in ("minimum", "maximum") if isinstance(node.get(bound), float)
    ]
    assert fractional == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind: type[Kind]) -> None:
    schema = schema_of(kind)
    silent = [
        path
        for part in ("spec", "status")
        for path, node in walk(schema["properties"][part], part)
        if "description" not in node and not path.endswith("[]")
    ]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_status_has_no_bounds(kind: type[Kind]) -> None:
    for path, node in walk(schema_of(kind)["properties"]["status"], "status"):
        assert not BOUNDS & node.keys(), path
        assert node.get("required", []) == [] or path.endswith("[]"), path
        assert "x-kubernetes-validations" not in node, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_keys_of_keyed_lists_are_required(kind: type[Kind]) -> None:
    for path, node in walk(schema_of(kind), kind.__name__):
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"], path


def test_lists_of_named_entries_are_keyed() -> None:
    loose = [
        path
        for path, node in spec_nodes()
        if node.get("type") == "array"
        and "name" in node["items"].get("required", [])
        and node.get("x-kubernetes-list-type") is None
    ]
    assert loose == ["PolicyRollout.spec.route.parentRefs", "PolicyRollout.spec.strategy.steps[].match.headers"]


def test_every_rule_says_something_of_its_own() -> None:
    for kind in KINDS:
        for path, node in walk(schema_of(kind), kind.__name__):
            messages = [rule["message"] for rule in node.get("x-kubernetes-validations", [])]
            assert len(messages) == len(set(messages)), path


def test_every_field_of_a_job_is_immutable_or_said_to_change() -> None:
    spec = structural(RLHFJobSpec)
    mutable = {to_camel(name) for name in MUTABLE_FIELDS}
    unchanged = {name for name, node in spec["properties"].items() if IMMUTABLE in rules_of(node)}
    assert unchanged == set(spec["properties"]) - mutable
    always_there = set(spec["required"]) | {name for name, node in spec["properties"].items() if "default" in node}
    present = {rule["fieldPath"][1:] for rule in spec["x-kubernetes-validations"] if "fieldPath" in rule}
    assert present == unchanged - always_there | {"guards"}


def rules_of(node: dict[str, Any]) -> list[str]:
    return [rule["rule"] for rule in node.get("x-kubernetes-validations", ())]


def test_kinds_have_short_names_a_category_and_a_status_of_their_own() -> None:
    for kind, short in zip(KINDS, ("rm", "rj", "pr"), strict=True):
        spec = custom_resource_definition(kind)["spec"]
        assert spec["names"]["shortNames"] == [short]
        assert spec["names"]["categories"] == ["rlhf"]
        assert spec["versions"][0]["subresources"] == {"status": {}}
        assert spec["scope"] == "Namespaced"


class Inner(Model):
    size: int = 6
    ratio: float = 6.0
    note: str | None = None


class Outer(Model):
    """Outer type."""

    rules = (Rule("self.count > 0", "count must be positive", ".count"),)

    count: int
    """How many."""
    inner: Inner = Inner(size=7)
    """A block."""
    maybe: Inner | None = None
    """Another block."""
    names: list[str] = []  # noqa: RUF012 - pydantic copies it
    """Names."""


def test_a_model_becomes_a_structural_schema() -> None:
    number = {"type": "number", "default": 6}
    inner = {
        "type": "object",
        "properties": {"size": {"type": "integer", "default": 6}, "ratio": number, "note": {"type": "string"}},
    }
    assert structural(Outer) == {
        "description": "Outer type.",
        "type": "object",
        "required": ["count"],
        "properties": {
            "count": {"description": "How many.", "type": "integer"},
            "inner": {"description": "A block.", **inner, "default": {"size": 7, "ratio": 6}},
            "maybe": {"description": "Another block.", **inner},
            "names": {"description": "Names.", "type": "array", "items": {"type": "string"}},
        },
        "x-kubernetes-validations": [
            {"rule": "self.count > 0", "message": "count must be positive", "fieldPath": ".count"}
        ],
    }


def test_a_status_loses_bounds_and_rules() -> None:
    schema = tolerant(Outer)
    assert "required" not in schema
    assert "x-kubernetes-validations" not in schema
    assert schema["properties"]["inner"]["properties"]["size"] == {"type": "integer"}


ODD = Rule("self.size % 2 == 1", "size must be odd")


class Ruled(Model):
    rules = (Rule("self.size > 0", "size must be positive"),)

    size: int


class Holder(Model):
    ruled: Annotated[Ruled, Field(json_schema_extra={"x-kubernetes-validations": [ODD.as_schema()]})] | None = None


def test_rules_of_a_type_and_of_a_field_add_up() -> None:
    rules = structural(Holder)["properties"]["ruled"]["x-kubernetes-validations"]
    assert [rule["message"] for rule in rules] == ["size must be positive", "size must be odd"]


class Alternatives(Model):
    value: int | list[str] = 3


def test_alternatives_are_refused_because_a_structural_schema_has_none() -> None:
    with pytest.raises(ValueError, match="no alternatives"):
        structural(Alternatives)


def test_yaml_has_no_aliases() -> None:
    shared = {"a": 1}
    assert to_yaml({"x": shared, "y": shared}) == "x:\n  a: 1\ny:\n  a: 1\n"
