"""Pods and what they use: resources, scheduling, storage, output. Nothing here builds a pod."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from .base import Model, Rule
from .data import LocalSecretRef, PVCSource, S3Source
from .meta import map_list
from .scalars import ImageRef, Key, ObjectName, OpenObject, Quantity, ShortText

LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]


def _whole(value: object) -> object:
    # To Python False equals 0; to the CRD's schema it is no number.
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "must be 0, 2 or 3")
    return value


ZeroStage = Annotated[Literal[0, 2, 3], BeforeValidator(_whole)]


class Resources(Model):
    """Compute resources of a container."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """What the container is guaranteed, by resource name."""
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = {}
    """What the container may use at most, by resource name."""


class Toleration(Model):
    """A taint that the pods accept."""

    key: ShortText | None = None
    """Key of the taint; all keys when unset, with operator Exists."""
    operator: Annotated[str, StringConstraints(pattern=r"^(Exists|Equal)$", max_length=6)] | None = None
    """Exists or Equal (the default)."""
    value: Annotated[str, StringConstraints(max_length=253)] | None = None
    """Value of the taint, for Equal."""
    effect: (
        Annotated[str, StringConstraints(pattern=r"^(NoSchedule|PreferNoSchedule|NoExecute)$", max_length=16)] | None
    ) = None
    """NoSchedule, PreferNoSchedule or NoExecute; all effects when unset."""
    toleration_seconds: int | None = None
    """How long a NoExecute taint is tolerated, in seconds; for ever when unset."""


class KeyRef(Model):
    """A key of a ConfigMap or Secret of the same namespace."""

    name: ObjectName
    """Name of the ConfigMap or Secret."""
    key: Key
    """The key."""
    optional: bool | None = None
    """Whether the object or key may be missing."""


class FieldRef(Model):
    """A field of the pod itself."""

    field_path: ShortText
    """Path of the field, for example `metadata.name`."""


class EnvVarSource(Model):
    """Where the value of a variable comes from."""

    one_of: ClassVar[tuple[str, ...]] = ("secret_key_ref", "config_map_key_ref", "field_ref")

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod."""


class EnvVar(Model):
    """An environment variable of the main container."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!(has(self.value) && has(self.valueFrom))", "set value or valueFrom, not both"),
        Rule(
            "!self.name.startsWith('RLHF_')",
            "names that start with RLHF_ belong to the operator: choose another name",
        ),
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value."""
    value_from: EnvVarSource | None = None
    """Where its value comes from."""


class PodFields(Model):
    """What most users set about pods, without writing a template."""

    image: ImageRef | None = None
    """Image of the main container; by default the one that was released with the operator."""
    resources: Resources | None = None
    """Resources of the main container, per pod."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that the pods accept."""
    image_pull_secrets: Annotated[list[LocalSecretRef], map_list("name", 16)] = []
    """Secrets for pulling images."""
    service_account_name: ObjectName | None = None
    """ServiceAccount of the pods, for workload identity; its token is not mounted."""
    env: Annotated[list[EnvVar], map_list("name", 64)] = []
    """More environment variables for the main container."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    template: OpenObject | None = None
    """A pod template (metadata, spec) merged strategically over the operator's own by container name, and checked by
    a dry run before use. Command, ports, restartPolicy, selector labels and our environment can't be overridden."""


class AutoscalingMetric(StrEnum):
    """What the number of pods follows."""

    QUEUE_DEPTH = "QueueDepth"
    KV_CACHE_USAGE = "KVCacheUsage"


class Autoscaling(Model):
    """How many pods there are."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("self.min <= self.max", "min must not be greater than max"),)

    min: Annotated[int, Field(ge=1, le=1000)]
    """Fewest pods."""
    max: Annotated[int, Field(ge=1, le=1000)]
    """Most pods."""
    metric: AutoscalingMetric = AutoscalingMetric.QUEUE_DEPTH
    """QueueDepth (waiting requests per pod) or KVCacheUsage (0-1)."""
    target: Annotated[float, Field(gt=0, le=100_000)] = 4.0
    """Value of the metric that is aimed at."""


class Offload(StrEnum):
    """What DeepSpeed keeps in host memory."""

    NONE = "None"
    OPTIMIZER = "Optimizer"
    OPTIMIZER_AND_PARAMETERS = "OptimizerAndParameters"


class Precision(StrEnum):
    """The number format of training."""

    BF16 = "bf16"
    FP32 = "fp32"


class Compute(PodFields):
    """The pods of a run and how they share the model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(self.zeroStage == 3 && self.gpusPerWorker == 0 && self.workers == 1)",
            "zeroStage 3 on one CPU worker has nothing to shard: use zeroStage 0, or more workers",
        ),
        Rule(
            "self.offload == 'None' || self.zeroStage >= 2",
            "offload works on ZeRO's shards: set zeroStage to 2 or 3, or offload to None",
        ),
        Rule(
            "self.offload != 'OptimizerAndParameters' || self.zeroStage == 3",
            "offloading parameters needs zeroStage 3: set it, or offload only the Optimizer",
        ),
        Rule(
            "!has(self.priorityClass) || has(self.queueName)",
            "priorityClass is Kueue's and needs queueName; for the priority of pods use priorityClassName",
        ),
    )

    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of pods; each is one torchrun node."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs per pod, one process each; 0 trains on CPU with one process per pod."""
    gpu_resource_name: Annotated[str, StringConstraints(min_length=1, max_length=253)] = "nvidia.com/gpu"
    """Resource name of the GPUs."""
    zero_stage: ZeroStage = 0
    """DeepSpeed ZeRO stage: 0 replicates, 2 shards optimizer and gradients, 3 also parameters."""
    offload: Offload = Offload.NONE
    """What is kept in host memory: None, Optimizer or OptimizerAndParameters."""
    precision: Precision | None = None
    """bf16 or fp32; by default bf16 on GPUs and fp32 on CPU."""
    gradient_checkpointing: bool = False
    """Trade time for memory: recompute activations in the backward pass."""
    attention: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=63)] = "auto"
    """Attention implementation by Transformers' name, for example sdpa or flash_attention_2; auto lets it choose."""
    deterministic: bool = False
    """Use deterministic kernels only: slower, bit-for-bit repeatable on GPUs."""
    queue_name: ObjectName | None = None
    """Kueue LocalQueue that admits the run."""
    priority_class: ObjectName | None = None
    """Kueue WorkloadPriorityClass of the run."""

    @property
    def world_size(self) -> int:
        """Number of processes (ranks)."""
        return self.workers * max(1, self.gpus_per_worker)


class AccessMode(StrEnum):
    """Access mode of a volume claim."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"


class ReclaimPolicy(StrEnum):
    """What happens to a claim of our own when its object is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class Storage(Model):
    """The volume that holds workspaces and artifacts: an existing claim, or the size of a claim of our own."""

    one_of: ClassVar[tuple[str, ...]] = ("claim_name", "size")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.size) || !(has(self.storageClassName) || has(self.accessModes) || has(self.reclaimPolicy))",
            "storageClassName, accessModes and reclaimPolicy describe a new claim: set size instead of claimName, or "
            "remove them",
        ),
    )

    claim_name: ObjectName | None = None
    """An existing PersistentVolumeClaim."""
    size: Quantity | None = None
    """Size of a claim that the operator makes."""
    storage_class_name: ObjectName | None = None
    """StorageClass of that claim; the cluster's default when unset."""
    access_modes: Annotated[list[AccessMode], Field(min_length=1, max_length=3)] | None = None
    """Access modes of that claim; by default ReadWriteMany with several workers, else ReadWriteOnce."""
    reclaim_policy: ReclaimPolicy | None = None
    """Retain (the default) keeps that claim when the object is deleted; Delete removes it."""


class Signing(Model):
    """Signing of the artifact."""

    secret_ref: LocalSecretRef
    """Secret that holds the private key; only the publish pod mounts it."""
    key: Key = "key.pem"
    """Key of the Secret that holds the PEM file."""


class Output(Model):
    """Where the artifact goes, and its name there; by default onto the storage claim."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!(has(self.pvc) && has(self.s3))", "set at most one of pvc, s3"),
        Rule(
            "!has(self.secretRef) || has(self.s3)",
            "secretRef holds credentials of s3: remove it, or set s3",
        ),
    )

    pvc: PVCSource | None = None
    """A folder on a PersistentVolumeClaim."""
    s3: S3Source | None = None
    """A prefix in an object store, for a copy of the artifact beside the one on the storage claim."""
    secret_ref: LocalSecretRef | None = None
    """Credentials for s3 (keys `accessKeyID`, `secretAccessKey` and, for temporary ones, `sessionToken`)."""
    alias: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=63)] | None
    ) = None
    """A readable name for the artifact, for example v1.3.0; the digest stays its identity."""
    signing: Signing | None = None
    """Sign the artifact."""
