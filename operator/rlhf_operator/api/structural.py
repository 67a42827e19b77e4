"""From pydantic's JSON Schema to a structural OpenAPI v3 schema, as a CRD wants it. Pure; knows no kind."""

from __future__ import annotations

from typing import Any

from .base import Model

Schema = dict[str, Any]

_RULES = "x-kubernetes-validations"
_DROPPED = frozenset(
    {
        *("title", "$defs", "additionalProperties", "properties", "items", "anyOf", "default", "const"),
        # What keys of a map must look like no structural schema says: the operator does, when it reads the spec.
        *("patternProperties", "propertyNames"),
    }
)
# A refused status write blocks the object: of a status only types, descriptions and list keys are kept.
_BOUNDS = frozenset(
    {
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "required",
        "default",
        _RULES,
    }
)
_ORDER = (
    "description",
    "type",
    "format",
    "anyOf",
    "enum",
    "default",
    "pattern",
    "required",
    "properties",
    "additionalProperties",
    "items",
)


def structural(model: type[Model]) -> Schema:
    """The structural schema of a spec type, with bounds, defaults and rules."""
    document = model.model_json_schema(by_alias=True)
    return _convert(document, document.get("$defs", {}))


def tolerant(model: type[Model]) -> Schema:
    """The structural schema of a status type: no bounds, no enums, nothing required but the keys of list-maps."""
    return _without_bounds(structural(model))


def _convert(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _resolved(node, definitions)
    result: Schema = {key: value for key, value in node.items() if key not in _DROPPED}
    if node.get("x-kubernetes-int-or-string"):
        result["anyOf"] = node["anyOf"]
    if "const" in node:
        result["enum"] = [node["const"]]
    for bound, name in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if name in node:
            result[bound], result[name] = _number(node[name]), True
        elif bound in node:
            result[bound] = _number(node[bound])
    if node.get("properties"):
        result["properties"] = {name: _convert(child, definitions) for name, child in node["properties"].items()}
    elif isinstance(values := _values(node), dict):
        result["additionalProperties"] = _convert(values, definitions)
    if "items" in node:
        result["items"] = _convert(node["items"], definitions)
    default = node.get("default")
    if isinstance(default, dict):
        if result.get("properties"):
            result["default"] = _set_values(default)
    elif default is not None and default != []:
        result["default"] = _number(default)
    return _ordered(result)


def _values(node: Schema) -> object:
    """What a map's values are; pydantic says it beside the keys' pattern when they have one."""
    return next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with references and `or null` taken out; what stands beside them wins, and rules add up."""
    while "$ref" in node or ("anyOf" in node and not node.get("x-kubernetes-int-or-string")):
        beside = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[1]]
        else:
            choices = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
            if len(choices) != 1:
                raise ValueError(f"a structural schema has no alternatives: {node}")
            (target,) = choices
        rules = target.get(_RULES, []) + beside.get(_RULES, [])
        node = target | beside | ({_RULES: rules} if rules else {})
    return node


def _set_values(default: Schema) -> Schema:
    """A default without what is unset. Whole: the API server validates it before it fills in the fields' defaults."""
    return {
        name: _set_values(value) if isinstance(value, dict) else _number(value)
        for name, value in default.items()
        if value is not None and value != [] and value != {}
    }


def _without_bounds(node: Schema) -> Schema:
    result = {key: value for key, value in node.items() if key not in _BOUNDS}
    if "properties" in result:
        result["properties"] = {key: _without_bounds(child) for key, child in result["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(result.get(name), dict):
            result[name] = _without_bounds(result[name])
    if keys := result.get("x-kubernetes-list-map-keys"):
        result["items"]["required"] = keys
    return _ordered(result)


def _number(value: Any) -> Any:
    """6.0 as 6: JSON knows one kind of number, and the API server prints it so."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ordered(schema: Schema) -> Schema:
    known = {key: schema[key] for key in _ORDER if key in schema}
    return known | {key: schema[key] for key in sorted(schema) if key not in known}
