"""The ground under every API type: the model base and its admission rules. No kind lives here."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP = "rlhf.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

IMMUTABLE = "self == oldSelf"
"""The rule of a field that may not change, on the field itself."""
_RULES = "x-kubernetes-validations"
_ACRONYMS = frozenset({"kl", "gpu", "url"})


def to_camel(name: str) -> str:
    """`max_gpu_hours` -> `maxGPUHours`: Kubernetes' spelling, where an acronym after the first word stays whole."""
    first, *rest = [part for part in name.split("_") if part]
    return first + "".join(part.upper() if part in _ACRONYMS else part.capitalize() for part in rest)


class Rule(NamedTuple):
    """One CEL rule of a type: what must hold, and the words a user reads when it does not.

    The words are fixed: a messageExpression with a number or a name in it exceeds the cost budget by itself.
    """

    rule: str
    message: str
    field_path: str | None = None

    def as_schema(self) -> dict[str, Any]:
        """The entry of `x-kubernetes-validations`."""
        entry: dict[str, Any] = {"rule": self.rule, "message": self.message}
        if self.field_path is not None:
            entry["fieldPath"] = self.field_path
        return entry


class Model(BaseModel):
    """Base of every spec type: camelCase outside, snake_case inside, immutable, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # Most types are only parts of others: built by themselves too, all of them would take 4 MB in every process.
        defer_build=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules of this type; a subclass's come after its bases'."""
    one_of: ClassVar[tuple[str, ...]] = ()
    """Python names of the fields of which exactly one must be set."""
    immutable: ClassVar[tuple[str, ...]] = ()
    """Python names of the fields that may not be set, changed or removed after creation."""
    immutable_advice: ClassVar[str] = "create a new object"
    """What to do instead."""

    def dump(self) -> dict[str, Any]:
        """The JSON form as Kubernetes has it: camelCase, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def all_rules(cls) -> tuple[Rule, ...]:
        """The rules of this type and its bases, the one-of rule first."""
        found: list[Rule] = []
        if cls.one_of:
            found.append(one_of_rule(cls.one_of))
        for base in reversed(cls.__mro__):
            found.extend(rule for rule in base.__dict__.get("rules", ()) if rule not in found)
        return tuple(found)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if self.one_of and sum(getattr(self, name) is not None for name in self.one_of) != 1:
            raise ValueError(one_of_rule(self.one_of).message)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        result = handler(schema)
        target = handler.resolve_ref_schema(result)
        rules = [rule.as_schema() for rule in cls.all_rules()]
        for name in cls.immutable:
            field = to_camel(name)
            node = target["properties"][field]
            words = f"{field} can't be changed: {cls.immutable_advice}"
            # On the field itself: from the parent, which the server evaluates at every status write too, each access
            # costs a map of all its fields.
            node[_RULES] = [*node.get(_RULES, ()), Rule(IMMUTABLE, words).as_schema()]
            if field not in target.get("required", ()) and node.get("default") in (None, []):
                rules.append(presence_rule(field, words).as_schema())
        if rules:
            target[_RULES] = rules
        return result


class StatusModel(Model):
    """Base of every status type: tolerant, because a status that can't be read or written blocks its object."""

    model_config = ConfigDict(extra="ignore")


def one_of_rule(names: tuple[str, ...]) -> Rule:
    """Exactly one of the named fields is set; the message names the choices."""
    fields = [to_camel(name) for name in names]
    count = " + ".join(f"(has(self.{cel_name(field)}) ? 1 : 0)" for field in fields)
    return Rule(f"{count} == 1", f"set exactly one of {', '.join(fields)}")


def presence_rule(field: str, message: str) -> Rule:
    """The field (CRD name) is neither set nor removed by an update."""
    name = cel_name(field)
    return Rule(f"has(self.{name}) == has(oldSelf.{name})", message, field_path=f".{field}")


def cel_name(field: str) -> str:
    """A field's name inside CEL, where Kubernetes escapes the language's own words."""
    return f"__{field}__" if field in _CEL_WORDS else field


_CEL_WORDS = frozenset(
    {
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    }
)
