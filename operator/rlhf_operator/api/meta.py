"""What every object of ours has: metadata, conditions, and the shape of a kind. No kind lives here."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from .base import API_VERSION, Model, Rule, StatusModel
from .scalars import Time


def map_list(key: str, max_items: int | None = None) -> Any:
    """Schema of a list whose entries are told apart by one field."""
    return Field(
        max_length=max_items,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]},
    )


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One aspect of an object's state, for machines to read."""

    type: str
    """Name of the condition."""
    status: ConditionStatus = ConditionStatus.UNKNOWN
    """True, False or Unknown."""
    reason: str = ""
    """CamelCase word for why."""
    message: str = ""
    """The same for people: what is so, and what to do."""
    observed_generation: int | None = None
    """Generation of the spec that this speaks of."""
    last_transition_time: Time | None = None
    """When the status last changed."""


Conditions = Annotated[list[Condition], map_list("type")]


class OwnerReference(StatusModel):
    """The object that owns another."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(StatusModel):
    """The part of Kubernetes' metadata that the operator reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    owner_references: list[OwnerReference] = []


class PrinterColumn(NamedTuple):
    """A column of `kubectl get`."""

    name: str
    type: str
    json_path: str
    description: str
    priority: int = 0

    def as_schema(self) -> dict[str, Any]:
        """The entry of `additionalPrinterColumns`; columns above priority 0 show with `-o wide`."""
        column = {"name": self.name, "type": self.type, "jsonPath": self.json_path, "description": self.description}
        return column | ({"priority": self.priority} if self.priority else {})


class Kind(Model):
    """Base of the three kinds: what the CRD needs beside the schema."""

    model_config = {"extra": "ignore"}

    plural: ClassVar[str]
    short_name: ClassVar[str]
    printer_columns: ClassVar[tuple[PrinterColumn, ...]]
    rules: ClassVar[tuple[Rule, ...]] = (
        # Pods' host names and Services are made from the name.
        Rule(
            "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name becomes the name of Services and pods: at most 40 characters, lower-case letters, digits "
            "and '-', starting with a letter and ending with a letter or digit",
            field_path=".metadata.name",
        ),
    )

    api_version: str = API_VERSION
    metadata: ObjectMeta = ObjectMeta()

    @classmethod
    def part(cls, name: str) -> type[Model]:
        """The type of `spec` or `status`."""
        annotation = cls.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Model)):
            raise TypeError(f"{cls.__name__}.{name} is not a model")
        return annotation


class EffectiveStatus(StatusModel):
    """What is in force, by name: a misspelt field that the API server dropped is missing here."""

    guards: list[str] = []
    """Guards in force, with their actions."""
    metrics: list[str] = []
    """Metrics in force."""
    rewards: list[str] = []
    """Rewards in force."""
