"""What a plan's models take: parameters, activations, caches. Traced on models without storage."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_operator.api.plan import PlanCompute, TrainingPlan
from rlhf_operator.api.pods import Precision
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.models import recompute_activations
from rlhf_trainer.policy.adapters import add_adapter
from rlhf_trainer.policy.generation import MICRO_BATCHES_AT_ONCE, KeyedGumbel
from rlhf_trainer.policy.heads import PolicyModel, ValueModel
from rlhf_trainer.policy.load import check_model_directory, reading

from .parts import ModelSize, Sizes
from .trace import peak_bytes, sum_backward, without_storage

# Bytes per token of a step's batch, which every rank holds whole: ids and mask; those with seven figures in float32.
_PROMPT_TOKEN_BYTES = 16
_RESPONSE_TOKEN_BYTES = 48
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 << 20


def sizes_of(plan: TrainingPlan, micro_batch_size: int) -> Sizes:
    """Trace the plan's models. Raises ConfigError when their files can't be read."""
    base = Path(plan.base_model.path)
    check_model_directory(base, "baseModel")
    with reading(base, "config.json"):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    prompt, response = plan.generation.max_prompt_length, plan.generation.max_response_length
    with without_storage(), reading(base, "the causal language model"):
        policy = _policy(plan, config, micro_batch_size)
        critic = _critic(plan, config, micro_batch_size) if plan.ppo is not None else None
        generation = _generation(plan, config, micro_batch_size * MICRO_BATCHES_AT_ONCE)
    return Sizes(
        policy=policy,
        critic=critic,
        # An adapter's reference is the same model without it.
        reference_parameters=policy.parameters if plan.lora is None else 0,
        scorers=sum(stored_bytes(Path(path)) for path in _reward_models(plan)),
        generation=generation,
        batch=plan.training.batch_size * (prompt * _PROMPT_TOKEN_BYTES + response * _RESPONSE_TOKEN_BYTES),
    )


def _reward_models(plan: TrainingPlan) -> list[str]:
    paths = [scorer.reward_model.path for scorer in plan.scorers if scorer.reward_model is not None]
    return sorted({path for path in paths if path is not None})


def stored_bytes(directory: Path) -> int:
    """Bytes of the tensors in a directory's safetensors files, read from their headers."""
    total = 0
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(_HEADER_LENGTH_BYTES).ljust(_HEADER_LENGTH_BYTES, b"\0"))
            if length > _MAX_HEADER_BYTES:
                raise ConfigError(f"{path} is no safetensors file: its header would have {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length) or b"{}")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        total += max(ends, default=0)
    return total


def _policy(plan: TrainingPlan, config: Any, rows: int) -> ModelSize:
    model = _model(plan, config)
    module = PolicyModel(model, plan.generation.temperature, plan.compute.zero_stage == 3)
    return _traced(plan, module, model, rows)


def _critic(plan: TrainingPlan, config: Any, rows: int) -> ModelSize:
    model = _model(plan, config)
    width = int(model.config.get_text_config().hidden_size)
    module = ValueModel(model.base_model, width)
    module.head = nn.Linear(width, 1, dtype=_dtype(plan.compute))
    return _traced(plan, module, model, rows)


def _dtype(compute: PlanCompute) -> torch.dtype:
    """DeepSpeed holds the weights in bf16; without it they stay float32 and autocast makes copies."""
    return torch.bfloat16 if _low(compute) and compute.zero_stage > 0 else torch.float32


def _low(compute: PlanCompute) -> bool:
    return compute.precision is Precision.BF16


def _model(plan: TrainingPlan, config: Any) -> Any:
    # Whatever kernel the plan names, none that is in use holds the scores of all pairs of tokens.
    model = AutoModelForCausalLM.from_config(config, dtype=_dtype(plan.compute), attn_implementation="sdpa")
    model.config.use_cache = False
    if plan.lora is not None:
        add_adapter(model, plan.lora, plan.training.seed)
    return model


def _traced(plan: TrainingPlan, module: nn.Module, model: Any, rows: int) -> ModelSize:
    prompt, response = plan.generation.max_prompt_length, plan.generation.max_response_length
    ids = torch.zeros(rows, prompt + response, dtype=torch.int64)
    inputs = ids, torch.ones_like(ids), prompt
    low = _low(plan.compute) and plan.compute.zero_stage == 0

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            found: Tensor | tuple[Tensor, Tensor] = module(*inputs)
        return found if isinstance(found, Tensor) else found[0]

    def without_gradients() -> None:
        with torch.no_grad():
            forward()

    def update() -> None:
        # The second micro-batch meets the gradients of the first.
        for _ in range(2):
            sum_backward(forward())

    module.eval()
    judged = peak_bytes(module, without_gradients)
    module.train(recompute_activations(model, plan.compute))
    learned = peak_bytes(module, update)
    parameters = list(module.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
        update=max(0, learned - sum(parameter.nbytes for parameter in trained)),
        forward=judged,
    )


@torch.no_grad()
def _generation(plan: TrainingPlan, config: Any, most_rows: int) -> int:
    """The full cache and the drawing of one token, or reading the prompts when that is more."""
    prompt, response = plan.generation.max_prompt_length, plan.generation.max_response_length
    rows = min(most_rows, -(-plan.training.batch_size // plan.compute.world_size))
    model = _model(plan, config).eval()
    ids = torch.zeros(rows, prompt, dtype=torch.int64)
    draw = KeyedGumbel(torch.zeros(rows, dtype=torch.int64), prompt, plan.generation.temperature)
    cache: list[Any] = []

    def read_prompts() -> None:
        low = _low(plan.compute) and plan.compute.zero_stage == 0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        cache.append(found.past_key_values)
        draw(ids, found.logits[:, -1].to(torch.float32, copy=True))

    reading_prompts = peak_bytes(model, read_prompts)
    layers = cache[0].layers
    held = sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
    full = held * (prompt + response) // prompt
    logits = torch.zeros(rows, int(config.get_text_config().vocab_size))
    drawing = peak_bytes(model, lambda: draw(ids, logits.to(torch.float32, copy=True)))
    # A layer's cache is copied when it grows.
    return max(reading_prompts, int(full + full // len(layers)) + logits.nbytes + drawing)
