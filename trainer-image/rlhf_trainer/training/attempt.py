"""What the parts of one attempt's run share on one rank, and what a training leaves behind."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf_operator.api.algorithms import LoraOutput
from rlhf_operator.api.plan import TrainingPlan
from rlhf_trainer.checkpoint import Checkpoint, CheckpointStore
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.models import ModelFactory
from rlhf_trainer.options import RunOptions
from rlhf_trainer.policy.generation import SamplingSettings
from rlhf_trainer.policy.load import load_tokenizer, save_policy
from rlhf_trainer.progress import Reporter
from rlhf_trainer.signals import StopFlag

Whole = Callable[[], AbstractContextManager[Any]]
"""Gives the whole policy (a PolicyModel) for generation, however it is partitioned. All ranks together."""


@dataclass(frozen=True)
class Attempt:
    """One attempt's run on one rank. Models are read lazily: the base is held against its digest first."""

    plan: TrainingPlan
    options: RunOptions
    workspace: Workspace
    group: Group
    scorers: Any
    stop: StopFlag
    beat: Callable[[], None]
    reporter: Reporter | None
    """None on every rank but the first."""

    @property
    def base(self) -> Path:
        """Folder of the base model."""
        return Path(self.plan.base_model.path)

    @cached_property
    def plan_digest(self) -> str:
        """The plan's digest."""
        return self.plan.digest()

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return load_tokenizer(self.base)

    @cached_property
    def models(self) -> ModelFactory:
        """Builds the models of the plan."""
        return ModelFactory(self.plan, self.group, self.tokenizer)

    @cached_property
    def sampling(self) -> SamplingSettings:
        """How responses are drawn."""
        return self.models.sampling()

    def store(self, phase: str) -> CheckpointStore:
        """The checkpoints of a phase."""
        return CheckpointStore(self.workspace, self.group, self.plan_digest, phase, self.plan.checkpoints.keep)

    def save_policy(self, weights: Callable[[], Mapping[str, Tensor]], folder: Path) -> None:
        """Write the policy as a Hugging Face directory, an adapter merged in; gathering the weights takes every rank.

        The adapter by itself lies below, for a training that goes on from it.
        """
        whole, lora = weights(), self.plan.lora
        if not self.group.is_main:
            return
        if lora is not None:
            from rlhf_trainer.policy.adapters import ADAPTER_FOLDER, merged, save_adapter

            save_adapter(whole, lora, self.plan.base_model.ref, "", self.tokenizer, folder / ADAPTER_FOLDER)
            whole = merged(whole, lora, self.base)
        save_policy(whole, self.tokenizer, self.base, folder)

    def save_result(self, weights: Callable[[], Mapping[str, Tensor]], folder: Path, base_digest: str) -> None:
        """Write what the run publishes: the whole model, or the adapter that was trained. All ranks together."""
        whole, lora = weights(), self.plan.lora
        if not self.group.is_main:
            return
        if lora is not None:
            from rlhf_trainer.policy.adapters import merged, save_adapter

            if lora.output is LoraOutput.ADAPTER:
                save_adapter(whole, lora, self.plan.base_model.ref, base_digest, self.tokenizer, folder)
                return
            whole = merged(whole, lora, self.base)
        save_policy(whole, self.tokenizer, self.base, folder)

    def encode(self, text: str) -> list[int]:
        """A prompt as the policy sees it: the tokenizer's own special tokens in front, never an end token behind."""
        ids: list[int] = self.tokenizer(text).input_ids
        while ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        start = self.tokenizer.bos_token_id
        return ids or [self.tokenizer.eos_token_id if start is None else start]


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    steps: int
    engine: str
    """What trained, as found on the living objects."""
    figures: Mapping[str, float]
    """Of the last step."""
    last: Checkpoint | None
    weights: Callable[[], Mapping[str, Tensor]]
    """The policy's whole weights, named as its Hugging Face model names them; takes every rank."""
    whole: Whole
    reference: Callable[..., Any] | None = None
    """The reference model that KL is measured to, called as a PolicyModel is; None where the training has none."""
