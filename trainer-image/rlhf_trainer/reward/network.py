"""A reward model's network: from a base model's directory, with a head per dimension, and back to a directory."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_operator.api.algorithms import Lora
from rlhf_scoring.encode import InputFormat, default_format, pad_token, store_input_format, takes_token_types
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import sync_below
from rlhf_trainer.policy.load import check_model_directory

# Heads that Transformers puts on a backbone, and pooling in front of them, which many encoders come without.
_HEADS = ("score", "classifier", "classification_head", "pre_classifier", "pooler", "head")


@dataclass(frozen=True)
class Network:
    """A network ready to be trained, and how it reads its input."""

    model: Any
    tokenizer: Any
    input_format: InputFormat
    token_types: bool
    new: tuple[str, ...]
    """Modules that the base model's files lack: the head, and perhaps its pooling."""

    @property
    def pad(self) -> int:
        """Id of the padding token."""
        return pad_token(self.tokenizer)


def load_network(base: Path, dimensions: Sequence[str], max_length: int, seed: int, attention: str) -> Network:
    """Load a base model under a new head. Raises ConfigError for a directory that can't be used.

    What is new is drawn from the seed: the same on every rank and in every attempt.
    """
    check_model_directory(base, "baseModel")
    options: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    local = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(base, **local)
        tokenizer = AutoTokenizer.from_pretrained(base, **local)
        config.id2label = dict(enumerate(dimensions))
        config.label2id = {name: place for place, name in enumerate(dimensions)}
        # Or a model that was made for classes would choose another loss, and refuse our labels.
        config.problem_type = None
        torch.manual_seed(seed)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            base,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            # A head of another size is replaced, as one that is absent.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **local,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        detail = next(iter(str(error).splitlines()), "")[:500]
        raise ConfigError(f"baseModel: {base} can't be loaded: {detail}", reason="ModelUnreadable") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"baseModel: the tokenizer in {base} has no tokenizer.json: save it as a fast one")
    _choose_padding(tokenizer, int(model.get_input_embeddings().num_embeddings))
    model.config.pad_token_id = pad_token(tokenizer)
    model.config.use_cache = False
    input_format = _input_format(config, tokenizer, max_length)
    return Network(model, tokenizer, input_format, takes_token_types(config, input_format), _new_modules(base, report))


def _choose_padding(tokenizer: Any, vocabulary: int) -> None:
    """Pad with the end token where the tokenizer has no padding token, or one that the model has no embedding of."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is not None and pad < vocabulary:
        return
    if end is None or end >= vocabulary:
        raise ConfigError(
            "baseModel: the tokenizer has neither a padding nor an end token in the model's vocabulary; "
            "a reward model needs one"
        )
    tokenizer.pad_token = tokenizer.eos_token


def _input_format(config: Any, tokenizer: Any, max_length: int) -> InputFormat:
    """The kind that suits the model, at the length that the plan and the model's positions allow."""
    kind = default_format(config, tokenizer).kind
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from behind the padding token's.
        spare = 2 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
        max_length = min(max_length, positions - spare)
    if max_length < 8:
        raise ConfigError(f"train.maxLength {max_length} leaves no room for a prompt and a response: give at least 8")
    return InputFormat(kind=kind, max_length=max_length)


def _new_modules(base: Path, report: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules that Transformers drew at random; only what belongs to a head may be among them."""
    absent = sorted({*report["missing_keys"], *(str(_first(one)) for one in report["mismatched_keys"])})
    wrong = [name for name in absent if not any(part in _HEADS for part in name.split("."))]
    if wrong:
        raise ConfigError(
            f"baseModel: {base} lacks weights of its own architecture: {', '.join(wrong[:5])} ({len(wrong)} in all). "
            "It would start from noise: point baseModel at the whole model",
            reason="WeightsMissing",
        )
    found = []
    for name in absent:
        parts = name.split(".")
        place = next(at for at, part in enumerate(parts) if part in _HEADS)
        found.append(".".join(parts[: place + 1]))
    return tuple(dict.fromkeys(found))


def _first(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple) else entry


def head_modules(network: Network) -> list[str]:
    """The modules that are trained whole beside an adapter: the head and whatever else is new."""
    names = [name for name, _ in network.model.named_children() if name in _HEADS]
    return list(dict.fromkeys([*names, *network.new]))


def lora_config(lora: Lora, network: Network) -> Any:
    """PEFT's configuration: the adapter, and the head trained whole."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=lora.target_modules,
        modules_to_save=head_modules(network),
    )


def write_model(network: Network, weights: Mapping[str, Tensor], lora: Lora | None, target: Path) -> None:
    """Write a Hugging Face directory of these weights, an adapter merged in, with the input format beside them."""
    model = network.model
    if lora is not None:
        from peft import get_peft_model

        adapted = get_peft_model(model, lora_config(lora, network))
        adapted.load_state_dict(dict(weights))
        model, weights = adapted.merge_and_unload(), {}
    else:
        dtype = next(iter(weights.values())).dtype
        model = model.to(dtype)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    model.save_pretrained(target, state_dict=dict(weights) or None, safe_serialization=True)
    network.tokenizer.save_pretrained(target)
    store_input_format(target, network.input_format)
    config = json.loads((target / "config.json").read_text())
    # Where the base lay says nothing of the version, and would change its digest.
    config.pop("_name_or_path", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    sync_below(target)
