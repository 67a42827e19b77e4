"""Where data comes from and what its columns mean. Nothing here reads data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .base import Model, Rule
from .scalars import HTTPURL, Column, ColumnOrColumns, Digest, Key, ObjectName, RelativePath, ShortText, Time

TOKEN_KEY = "token"  # noqa: S105 the name of a key, not its value
"""Key of a Secret for a hub."""
ACCESS_KEY_ID_KEY, SECRET_ACCESS_KEY_KEY, SESSION_TOKEN_KEY = "accessKeyID", "secretAccessKey", "sessionToken"
STORE_KEYS = (ACCESS_KEY_ID_KEY, SECRET_ACCESS_KEY_KEY, SESSION_TOKEN_KEY)
"""Keys of a Secret for an object store; the last may be missing."""


class LocalSecretRef(Model):
    """A Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""


class HubSource(Model):
    """A repository on the Hugging Face hub."""

    repo: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?$", max_length=200)]
    """Repository, as `organisation/name`."""
    revision: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "main"
    """Branch, tag or commit; a branch is resolved to a commit once and recorded in status."""
    path: RelativePath | None = None
    """File or folder inside the repository, its root when unset. Of a folder, the files directly in it are used."""


class S3Source(Model):
    """An object or prefix in an object store."""

    uri: Annotated[str, StringConstraints(pattern=r"^(s3|gs)://[^\s/]+(/\S*)?$", max_length=1024)]
    """Address of the object or prefix: `s3://bucket/prefix` or `gs://bucket/prefix`."""
    endpoint: HTTPURL | None = None
    """Endpoint of a store that is not the cloud's own, for example MinIO."""


class PVCSource(Model):
    """A file or folder on a PersistentVolumeClaim of the same namespace."""

    claim_name: ObjectName
    """Name of the PersistentVolumeClaim."""
    path: RelativePath = ""
    """File or folder on the volume, relative to its root; the root when empty."""


class ConfigMapSource(Model):
    """One key of a ConfigMap of the same namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: Key
    """Key that holds the content."""


class DataRef(Model):
    """Where data, or a model, is found: exactly one source."""

    one_of: ClassVar[tuple[str, ...]] = ("hf", "s3", "pvc", "config_map")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.secretRef) || has(self.hf) || has(self.s3)",
            "secretRef holds credentials of hf or s3: remove it, or use one of those sources",
        ),
    )

    hf: HubSource | None = None
    """A repository on the Hugging Face hub."""
    s3: S3Source | None = None
    """An object store."""
    pvc: PVCSource | None = None
    """A PersistentVolumeClaim, mounted read-only."""
    config_map: ConfigMapSource | None = None
    """A key of a ConfigMap, for small data."""
    digest: Digest | None = None
    """Expected digest of the content; a difference is an error."""
    secret_ref: LocalSecretRef | None = None
    """Credentials for hf (key `token`) or s3 (keys `accessKeyID`, `secretAccessKey` and, for temporary ones,
    `sessionToken`); without it those that the pod's environment and ServiceAccount give."""


class Format(StrEnum):
    """What one row of a data set is."""

    PROMPTS = "Prompts"
    PAIRS = "Pairs"
    RANKING = "Ranking"
    SCALAR = "Scalar"
    BINARY = "Binary"
    DEMONSTRATIONS = "Demonstrations"


class Columns(Model):
    """Which column holds what."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.chosen) == has(self.rejected)",
            "chosen and rejected go together: name both columns, or use responses with label or annotators",
        ),
        Rule(
            "!(has(self.chosen) && has(self.responses))",
            "a pair is either chosen and rejected, or responses with label or annotators: remove one of them",
        ),
        Rule(
            "!(has(self.label) && has(self.annotators))",
            "a row is judged by label or by annotators: remove one of them",
        ),
        Rule(
            "!has(self.annotators) || has(self.responses)",
            "annotators choose among responses: name the response columns in responses",
        ),
        Rule(
            "!has(self.responses) || has(self.label) || has(self.annotators)",
            "responses say nothing about which is better: name the column of the judgement in label or annotators",
        ),
    )

    prompt: ColumnOrColumns = "prompt"
    """The prompt: one column, or a list of columns joined by a blank line (empty ones are left out)."""
    chosen: Column | None = None
    """Pairs: the preferred response (default `chosen`)."""
    rejected: Column | None = None
    """Pairs: the other response (default `rejected`)."""
    responses: Annotated[list[Column], Field(min_length=2, max_length=16)] | None = None
    """Pairs and Ranking: the columns of the responses, when none is preferred by its place."""
    response: Column | None = None
    """Demonstrations, Binary and Scalar: the response (default `response`)."""
    label: Column | None = None
    """The judgement. Pairs: 0 tie, 1 first, 2 second. Ranking: `2>1=3` or ranks. Binary: a boolean. Scalar: a score."""
    annotators: Annotated[list[Column], Field(min_length=1, max_length=16)] | None = None
    """One column per annotator, valued as label; null: did not judge. An RLHFJob aggregates them by majority."""
    answer: Column | None = None
    """The reference answer, for graders that compare."""
    dimension: Column | None = None
    """The dimension that a row judges."""
    category: Column | None = None
    """The category, for slices."""
    cohort: Column | None = None
    """The cohort of the user, for slices."""
    language: Column | None = None
    """The language, for slices."""
    weight: Column | None = None
    """The weight of the row in training."""
    gold: Column | None = None
    """A trusted judgement, to measure annotators by."""


class TimeRange(Model):
    """A span of time."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.from) || !has(self.to) || self.from <= self.to", "from must not be after to"),
    )

    from_: Time | None = None
    """First moment."""
    to: Time | None = None
    """Last moment."""


class Provenance(Model):
    """Where data came from and what it may be used for; carried into the artifact's lineage."""

    sources: Annotated[list[ShortText], Field(max_length=32)] = []
    """Systems the rows came from."""
    time_range: TimeRange | None = None
    """When the rows were collected."""
    consent: ShortText | None = None
    """The consent given, for example `OptIn`."""
    anonymization: ShortText | None = None
    """How personal data was removed, for example `Presidio-strict`."""
    intended_use: Annotated[list[ShortText], Field(max_length=32)] = []
    """What the data may be used for, for example `reward-model`."""
    synthetic: bool | None = None
    """Whether the rows were generated."""
    rater_snapshot: ShortText | None = None
    """The rater population or guideline version that judged the rows."""


class Dataset(DataRef):
    """Data and what it means: one source, a format, and the columns."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.format != 'Ranking' || has(self.columns.responses)",
            "a ranking has several responses: name their columns in columns.responses",
        ),
        Rule(
            "self.format != 'Pairs' || !has(self.columns.responses) || self.columns.responses.size() == 2",
            "a pair has two responses: name two columns in columns.responses, or set format to Ranking",
        ),
    )

    format: Format
    """What one row is: Prompts, Pairs, Ranking, Scalar, Binary or Demonstrations."""
    columns: Columns = Columns()
    """Which column holds what."""
    provenance: Provenance | None = None
    """Where the rows came from."""
