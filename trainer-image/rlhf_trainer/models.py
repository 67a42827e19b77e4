"""The models of a run put into engines as the plan says. Single parts are in policy/ and engine.py."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from rlhf_operator.api.algorithms import CriticInit, Optimizer
from rlhf_operator.api.plan import PlanCompute, TrainingPlan
from rlhf_operator.api.pods import Precision

from .distributed import Group
from .engine import Engine, PlainEngine, ZeroEngine, reference_engine
from .policy.generation import SamplingSettings
from .policy.heads import PolicyModel, ValueModel
from .policy.load import check_head, end_tokens, load_causal_lm


@dataclass(frozen=True)
class ModelFactory:
    """Builds models for one plan on one rank."""

    plan: TrainingPlan
    group: Group
    tokenizer: Any

    @property
    def _reentrant(self) -> bool:
        return self.plan.compute.zero_stage == 3

    def sampling(self) -> SamplingSettings:
        """How responses are drawn."""
        generation = self.plan.generation
        return SamplingSettings(
            max_tokens=generation.max_response_length,
            temperature=generation.temperature,
            end_tokens=end_tokens(Path(self.plan.base_model.path), self.tokenizer),
            pad_token=int(self.tokenizer.pad_token_id),
            stop=list(generation.stop),
        )

    def policy(self, path: Path, temperature: float) -> PolicyModel:
        """Load a policy that is not trained."""
        return PolicyModel(self.load(path), temperature, self._reentrant)

    def trained_policy(self, path: Path, temperature: float, optimizer: Optimizer, accumulation: int) -> Engine:
        """Load a policy into an engine."""
        module = PolicyModel(self.trained(path, reference=True), temperature, self._reentrant)
        check_head(module.model)
        engine = self._engine("policy", module, module.model, optimizer, accumulation)
        if isinstance(engine, ZeroEngine) and self._reentrant:
            replica = PolicyModel(self.trained(path, reference=True), temperature, self._reentrant)
            engine.keep_replica(replica.requires_grad_(False))
        return engine

    def critic(self, path: Path, optimizer: Optimizer, accumulation: int) -> Engine:
        """Make a critic: a policy's backbone and a zero head, or the reward model's with its own."""
        assert self.plan.ppo is not None
        if self.plan.ppo.critic.init_from is CriticInit.REWARD_MODEL:
            from .policy.critic import load_reward_backbone

            base = Path(self.plan.base_model.path)
            backbone, weights = load_reward_backbone(self.plan, base, self.plan.compute.attention)
            if self.plan.lora is not None:
                self._adapt(backbone)
            module = ValueModel(backbone, int(backbone.config.get_text_config().hidden_size))
            with torch.no_grad():
                module.head.weight.copy_(weights)
            return self._engine("critic", module, backbone, optimizer, accumulation)
        model = self.trained(path)
        module = ValueModel(model.base_model, int(model.config.get_text_config().hidden_size))
        return self._engine("critic", module, model, optimizer, accumulation)

    def _adapt(self, model: Any, start: Path | None = None, *, reference: bool = False) -> None:
        # Here and not at the top: PEFT takes seconds to import.
        from .policy.adapters import add_adapter

        assert self.plan.lora is not None
        add_adapter(model, self.plan.lora, self.plan.training.seed, start, reference=reference)

    def reference(self, path: Path, temperature: float, policy: Engine) -> Callable[..., Any]:
        """Load the frozen reference model; a policy that is trained as an adapter holds it already."""
        if self.plan.lora is not None:
            from .policy.adapters import reference_of

            return reference_of(policy)
        return reference_engine(self.policy(path, temperature), self.group, self.plan.compute)

    def _engine(
        self, name: str, module: torch.nn.Module, model: Any, optimizer: Optimizer, accumulation: int
    ) -> Engine:
        compute = self.plan.compute
        # Transformers recomputes in training mode only (dropout is 0 anyway).
        module.train(recompute_activations(model, compute))
        if compute.zero_stage == 0:
            return PlainEngine(name, module, optimizer, self.group, compute.precision)
        return ZeroEngine(name, module, optimizer, self.group, compute, accumulation)

    def trained(self, path: Path, *, reference: bool = False) -> Any:
        """Load a bare causal language model to be trained, whole or as an adapter.

        reference: keep the adapter that it starts from beside the trained one.
        """
        if self.plan.lora is None:
            return self.load(path)
        from .policy.adapters import ADAPTER_FOLDER

        start = path / ADAPTER_FOLDER if (path / ADAPTER_FOLDER).is_dir() else None
        model = self.load(Path(self.plan.base_model.path) if start is not None else path)
        self._adapt(model, start, reference=reference)
        return model

    def load(self, path: Path) -> Any:
        """Load a bare causal language model, dropout off."""
        # Master weights stay in float32; bf16 is autocast's or DeepSpeed's business.
        model = load_causal_lm(path, torch.float32, self.plan.compute.attention)
        model.config.use_cache = False
        return model


def recompute_activations(model: Any, compute: PlanCompute) -> bool:
    """Switch recomputation of activations on if the plan asks for it; returns whether it does."""
    if compute.gradient_checkpointing:
        # The kind that ZeRO-3's partitioned weights stand needs an input with a gradient.
        reentrant = compute.zero_stage == 3
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            model.enable_input_require_grads()
    return compute.gradient_checkpointing


def torch_settings(plan: TrainingPlan) -> None:
    """Set what must be the same in every attempt for the same bits to come out."""
    torch.manual_seed(plan.training.seed)
    library_settings(plan.compute)


def library_settings(compute: PlanCompute) -> None:
    """Set what the libraries print and how exact they are."""
    # Standard output is for JSON lines.
    transformers.utils.logging.disable_progress_bar()
    if compute.deterministic:
        # cuBLAS is only repeatable with a workspace of its own; read when CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if compute.precision is Precision.FP32:
        torch.backends.cuda.matmul.allow_tf32 = False
