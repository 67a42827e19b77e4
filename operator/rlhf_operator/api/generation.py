"""How an RLHFJob samples responses, and with what. The sampling itself is in rlhf_trainer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .base import Model, Rule


class OverlongPrompt(StrEnum):
    """What happens to a prompt that is longer than maxPromptLength."""

    DROP = "Drop"
    TRUNCATE_LEFT = "TruncateLeft"


class TruncationMode(StrEnum):
    """How a response is judged that did not end by itself."""

    SCORE = "Score"
    PENALTY = "Penalty"
    MASK = "Mask"


class Truncation(Model):
    """What a response that hits maxResponseLength earns."""

    mode: TruncationMode = TruncationMode.PENALTY
    """Score judges it like any other, Penalty also subtracts, Mask leaves it out of the loss."""
    penalty: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """What Penalty subtracts from the reward."""


class Generation(Model):
    """How responses are sampled. There is no topP, topK, minP or repetitionPenalty: sampling is the policy itself."""

    max_prompt_length: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    """Longest prompt, in tokens."""
    max_response_length: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    """Longest response, in tokens."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Temperature of sampling; log-probabilities use the same."""
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=128)]], Field(max_length=16)] = []
    """Texts that end a response, beside the tokenizer's end tokens."""
    overlong_prompt: OverlongPrompt = OverlongPrompt.DROP
    """Drop leaves prompts that are too long out and counts them; TruncateLeft keeps their end and counts them."""
    truncation: Truncation = Truncation()
    """What a response that hits maxResponseLength earns."""


class RolloutEngine(StrEnum):
    """What generates responses in training."""

    TRANSFORMERS = "Transformers"
    VLLM = "VLLM"


class RolloutMode(StrEnum):
    """Where responses are generated."""

    COLOCATED = "Colocated"
    SERVER = "Server"


class ImportanceCorrectionMode(StrEnum):
    """How a difference between sampler and trainer is corrected."""

    NONE = "None"
    TOKEN_TRUNCATE = "TokenTruncate"  # noqa: S105 - a mode, not a password


class ImportanceCorrection(Model):
    """Correction for log-probabilities that differ between sampler and trainer."""

    mode: ImportanceCorrectionMode = ImportanceCorrectionMode.TOKEN_TRUNCATE
    """TokenTruncate weighs each token by the ratio, cut at max; None trusts the sampler."""
    max: Annotated[float, Field(ge=1, le=100)] = 2.0
    """Largest weight of a token."""


class RolloutSettings(Model):
    """The engine that generates responses."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.mode == 'Colocated'", "mode Server is reserved for a later version: use Colocated"),
        Rule(
            "self.maxStalenessSteps == 0",
            "maxStalenessSteps above 0 is reserved for a later version: leave it at 0",
        ),
    )

    engine: RolloutEngine = RolloutEngine.TRANSFORMERS
    """Transformers or VLLM."""
    mode: RolloutMode = RolloutMode.COLOCATED
    """Colocated shares the trainer's devices. Server is reserved."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of GPU memory that VLLM may use."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs per VLLM engine."""
    importance_correction: ImportanceCorrection = ImportanceCorrection()
    """Correction for differences between sampler and trainer."""
    max_staleness_steps: Annotated[int, Field(ge=0, le=64)] = 0
    """Reserved: by how many steps responses may be older than the policy."""
