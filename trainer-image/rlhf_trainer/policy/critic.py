"""A critic that starts from the reward model: only where both read the same tokens with the same architecture."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf_operator.api.plan import TOTAL, TrainingPlan
from rlhf_trainer.errors import ConfigError

from .load import check_model_directory, reading

FIELD = "ppo.critic.initFrom RewardModel"
# What makes two models of one type the same network.
_SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
_TOKENIZER = "tokenizer.json"


def load_reward_backbone(plan: TrainingPlan, base: Path, attention: str) -> tuple[Any, Tensor]:
    """Load the backbone of the first reward that is a model, and its head's weights, [hidden].

    Raises ConfigError naming every difference to the base model.
    """
    directory, dimension = _source(plan)
    check_model_directory(directory, FIELD)
    differences = list(_differences(directory, base))
    if differences:
        raise ConfigError(f"{FIELD}: it is not the base model's kind: {'; '.join(differences)}. Use Policy")
    options: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    local = {"trust_remote_code": False, "local_files_only": True}
    with reading(directory, "the reward model"):
        model = AutoModelForSequenceClassification.from_pretrained(
            directory, dtype=torch.float32, use_safetensors=True, **local, **options
        )
    head = getattr(model, "score", None)
    if head is None:
        raise ConfigError(f"{FIELD}: {directory} has no linear head named score. Use Policy")
    labels = model.config.label2id or {}
    weights: Tensor = head.weight.detach()
    # The total is the mean over dimensions.
    chosen = weights.mean(dim=0) if dimension == TOTAL else weights[labels[dimension]]
    model.config.use_cache = False
    return model.base_model, chosen


def _source(plan: TrainingPlan) -> tuple[Path, str]:
    """Folder and dimension of the reward model."""
    models = {scorer.name: scorer.reward_model for scorer in plan.scorers}
    for reward in plan.rewards:
        model = models.get(reward.scorer)
        if model is not None and model.path is not None:
            return Path(model.path), model.dimension
    raise ConfigError(f"{FIELD}: no reward is a reward model whose files this pod has. Use Policy")


def _differences(directory: Path, base: Path) -> Iterator[str]:
    with reading(directory, "config.json"):
        theirs = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    with reading(base, "config.json"):
        ours = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    for name in ("model_type", *_SHAPE):
        there, here = getattr(theirs, name, None), getattr(ours, name, None)
        if there != here:
            yield f"{name} is {there}, not {here}"
    if _vocabulary(directory) != _vocabulary(base):
        yield "its tokenizer has other tokens"


def _vocabulary(directory: Path) -> Any:
    """What a tokenizer's file says of text and ids; padding and truncation are no part of it."""
    with reading(directory, _TOKENIZER):
        found = json.loads((directory / _TOKENIZER).read_text())
        return {key: found.get(key) for key in ("model", "added_tokens", "normalizer", "pre_tokenizer", "decoder")}
