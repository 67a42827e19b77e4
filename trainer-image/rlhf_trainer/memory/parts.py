"""From sizes to a table of parts, by rank: what stays and what each phase of a step adds. Pure arithmetic.

ZeRO as DeepSpeed does it (Rajbhandari et al. 2020): stage 2 divides optimizer and gradients by the ranks, stage 3 the
weights too, and holds gathered weights while it computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from rlhf_operator.api.plan import PlanCompute
from rlhf_operator.api.pods import Offload, Precision

_FLOAT32, _BFLOAT16 = 4, 2
_MOMENTS = 2 * _FLOAT32
# Gradients are collected in one buffer of so many elements: DeepSpeed's reduce_bucket_size.
BUCKET = 500_000_000
# Measured: the libraries of a rank with a model of nothing; on a GPU, what its context and kernels take.
PROCESS_BYTES = 950 << 20
CUDA_BYTES = 600 << 20
# Stage 3 keeps at most so many gathered parameters: DeepSpeed's stage3_max_live_parameters.
MAX_LIVE = 1_000_000_000


@dataclass(frozen=True)
class ModelSize:
    """One model that is trained, and what its passes take beside weights and gradients. All but counts in bytes."""

    parameters: int
    trained: int
    update: int
    """Activations and buffers of one micro-batch, forward and backward."""
    forward: int
    """The same without gradients."""


@dataclass(frozen=True)
class Sizes:
    """What one rank of a run needs to know of its models."""

    policy: ModelSize
    critic: ModelSize | None
    reference_parameters: int
    """0 where no reference model is loaded."""
    scorers: int
    """Bytes of reward models in process, on rank 0."""
    generation: int
    """Bytes of the KV cache and of sampling from it."""
    batch: int
    """Bytes of the step's gathered batch."""


class Phase(StrEnum):
    """When a part is held."""

    ALWAYS = "always"
    GENERATE = "generate"
    UPDATE = "update"
    SAVE = "save"


@dataclass(frozen=True)
class Part:
    """Something that takes memory on a rank."""

    name: str
    bytes: int
    phase: Phase = Phase.ALWAYS
    host: bool = False
    """In the pod's memory rather than the device's."""


@dataclass(frozen=True)
class Estimate:
    """A plan's parts on its fullest rank."""

    parts: tuple[Part, ...]

    def peak(self, *, host: bool = False) -> tuple[Phase, int]:
        """The phase that needs most of the device's memory (or of the pod's, per rank), and how many bytes."""
        chosen = [part for part in self.parts if part.host == host]
        always = sum(part.bytes for part in chosen if part.phase is Phase.ALWAYS)
        sums = {
            phase: always + sum(part.bytes for part in chosen if part.phase is phase)
            for phase in Phase
            if phase is not Phase.ALWAYS
        }
        most = max(sums, key=lambda phase: sums[phase])
        return most, sums[most]

    def at_peak(self, *, host: bool = False) -> list[Part]:
        """The parts that are held at the peak, the greatest first."""
        most, _ = self.peak(host=host)
        held = [part for part in self.parts if part.host == host and part.phase in (Phase.ALWAYS, most) and part.bytes]
        return sorted(held, key=lambda part: -part.bytes)


def estimate(sizes: Sizes, compute: PlanCompute) -> Estimate:
    """The parts of the fullest rank, which is rank 0: it alone has the scorers."""
    on_cpu = compute.gpus_per_worker == 0
    found = [Part("process", PROCESS_BYTES, host=True)]
    if not on_cpu:
        found.append(Part("CUDA context", CUDA_BYTES))
    found += _trained("policy", sizes.policy, compute)
    if sizes.critic is not None:
        found += _trained("critic", sizes.critic, compute)
    found += _reference(sizes.reference_parameters, compute)
    found.append(Part("reward models", sizes.scorers))
    found.append(Part("batch", sizes.batch))
    found.append(Part("generation: KV cache and sampling", sizes.generation, Phase.GENERATE))
    if compute.zero_stage == 3:
        found.append(Part("policy gathered for generation", sizes.policy.parameters * _width(compute)))
    updates = [size.update for size in (sizes.policy, sizes.critic) if size is not None]
    found.append(Part("activations of a micro-batch", max(updates), Phase.UPDATE))
    whole = sizes.policy.parameters * _width(compute)
    if compute.zero_stage > 0 or not on_cpu:
        found.append(Part("policy gathered for a checkpoint", whole, Phase.SAVE, host=True))
    # One memory for all: what would be the device's is the pod's.
    return Estimate(tuple(Part(p.name, p.bytes, p.phase, host=False) for p in found) if on_cpu else tuple(found))


def _width(compute: PlanCompute) -> int:
    """Bytes of a weight as the forward pass of an engine has it."""
    return _BFLOAT16 if compute.precision is Precision.BF16 and compute.zero_stage > 0 else _FLOAT32


def _trained(name: str, size: ModelSize, compute: PlanCompute) -> Iterator[Part]:
    world, width, stage = compute.world_size, _width(compute), compute.zero_stage
    if stage == 0:
        yield Part(f"{name} weights", size.parameters * _FLOAT32)
        yield Part(f"{name} optimizer", size.trained * _MOMENTS)
        # More than one rank: the sum is taken over a flat copy.
        copies = 1 if world == 1 else 2
        yield Part(f"{name} gradients", copies * size.trained * _FLOAT32, Phase.UPDATE)
        return
    optimizer_on_host = compute.offload is not Offload.NONE
    weights_on_host = compute.offload is Offload.OPTIMIZER_AND_PARAMETERS and stage == 3
    weights = size.parameters * width // (world if stage == 3 else 1)
    yield Part(f"{name} weights", weights, host=weights_on_host)
    yield Part(
        f"{name} optimizer and float32 weights",
        size.trained * (_MOMENTS + _FLOAT32) // world,
        host=optimizer_on_host,
    )
    yield Part(f"{name} gradients", size.trained * width // world, host=optimizer_on_host)
    bucket = BUCKET if compute.gpus_per_worker else min(BUCKET, size.trained)
    if stage == 2:
        yield Part(f"{name} gradient bucket", bucket * width, Phase.UPDATE)
    if stage == 3:
        yield Part(f"{name} gradient bucket", bucket * width)
        # Cut by ranks before they are summed.
        yield Part(f"{name} gradients in flight", bucket * width, Phase.UPDATE)
        yield Part(f"{name} gathered", min(MAX_LIVE, size.parameters) * width, Phase.UPDATE)


def _reference(parameters: int, compute: PlanCompute) -> Iterator[Part]:
    share = compute.world_size if compute.zero_stage == 3 else 1
    on_host = compute.offload is Offload.OPTIMIZER_AND_PARAMETERS and compute.zero_stage == 3
    yield Part("reference weights", parameters * _width(compute) // share, host=on_host)
