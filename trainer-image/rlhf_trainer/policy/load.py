"""Models and tokenizers from and to local directories in the Hugging Face format. No code from the directory is run."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rlhf_trainer.errors import ConfigError, TrainerError, is_permanent
from rlhf_trainer.files import files_below, sync_directory, sync_file

from .heads import PolicyModel

_KEPT_FILES = ("config.json", "generation_config.json")
MAX_CONFIG_BYTES = 16 << 20


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises over a model directory's content into one ConfigError.

    No memory, or storage that fails for now, says nothing of the model and passes as it is.
    """
    try:
        yield
    except (TrainerError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if (isinstance(error, OSError) and not is_permanent(error)) or "can't allocate memory" in str(error):
            raise
        detail = next(iter(str(error).splitlines()), "")[:500]
        raise ConfigError(
            f"baseModel: {what} in {path} can't be loaded: {type(error).__name__}: {detail}", reason="ModelUnreadable"
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    with reading(path.parent, path.name):
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise ConfigError(f"baseModel: {path} has {size} bytes: a configuration has {MAX_CONFIG_BYTES} at most")
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ConfigError(f"baseModel: {path} holds no JSON object")
        return found


def check_model_directory(path: Path, field: str) -> None:
    """Refuse a model directory that can't be used or would have to run code of its own."""
    if not (path / "config.json").is_file():
        raise ConfigError(f"{field}: {path} holds no config.json: point it at a Hugging Face model directory")
    if "auto_map" in _read_config(path / "config.json"):
        raise ConfigError(f"{field}: this model wants to run code of its own (auto_map), which is never done")
    if not any(path.glob("*.safetensors")):
        raise ConfigError(f"{field}: {path} holds no *.safetensors: weights are read in that format only")


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer; padding is on the left, with the end token where the tokenizer has no padding token."""
    with reading(path, "the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ConfigError("baseModel: the tokenizer has no end-of-text token: a response could never end by itself")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def end_tokens(path: Path, tokenizer: Any) -> list[int]:
    """Every token id that ends a response: the tokenizer's and those of the model's two configurations."""
    ids = {int(tokenizer.eos_token_id)}
    for name in _KEPT_FILES:
        if (path / name).is_file():
            configured = _read_config(path / name).get("eos_token_id")
            ids.update(_token_ids(path / name, configured))
    return sorted(ids)


def _token_ids(path: Path, configured: Any) -> list[int]:
    found = [] if configured is None else configured if isinstance(configured, list) else [configured]
    if not all(type(token) is int for token in found):
        raise ConfigError(f"baseModel: eos_token_id in {path} is {configured!r}: it must be one id or a list of ids")
    return found


def load_causal_lm(path: Path, dtype: torch.dtype, attention: str) -> Any:
    """Load a causal language model with dropout off and a generation config that decides nothing."""
    with reading(path, "config.json"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    for name in vars(config):
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    options: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    with reading(path, "the causal language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    _refuse_made_up_weights(path, report)
    model.generation_config = GenerationConfig()
    model.eval()
    return model


def _refuse_made_up_weights(path: Path, report: Mapping[str, Any]) -> None:
    """Refuse a model of which Transformers drew a part at random because the files lack it; tied ones don't count."""
    absent = sorted({*report["missing_keys"], *(str(one) for one in report["mismatched_keys"])})
    if absent:
        raise ConfigError(
            f"baseModel: {path} lacks weights of its own architecture, or has them in another shape: "
            f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''} ({len(absent)} in all). "
            "It would start from noise: point baseModel at the whole model",
            reason="WeightsMissing",
        )


@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse an architecture whose logits are more than its output layer makes of the hidden state.

    Log-probabilities are computed from the hidden state in chunks; a model that scales or caps its logits afterwards
    would be trained on numbers it never sampled from.
    """
    ids = torch.arange(4, device=model.device).unsqueeze(0) % int(model.config.vocab_size)
    expected = model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(dim=-1)
    expected = expected.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    got, _ = PolicyModel(model, temperature=1.0)(ids, torch.ones_like(ids), 1)
    if not torch.allclose(got, expected, atol=0.05, rtol=0.01):
        raise ConfigError(
            f"baseModel: architecture {model.config.model_type} changes its logits behind the output layer; "
            "this trainer can't compute its log-probabilities"
        )


def save_policy(weights: Mapping[str, Tensor], tokenizer: Any, base: Path, target: Path) -> None:
    """Write a Hugging Face directory: these weights, the tokenizer, and the base's own configuration files.

    The configurations are the base's, not the run's: dropout and generation settings are what users of the base expect.
    """
    target.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        # Only its shape is needed: which weights are tied, and how they are spread over files.
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(target, state_dict=dict(weights), safe_serialization=True)
    tokenizer.save_pretrained(target)
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    for name in _KEPT_FILES:
        (target / name).unlink(missing_ok=True)
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    kept = json.loads((target / "config.json").read_text())
    kept.pop("torch_dtype", None)
    (target / "config.json").write_text(json.dumps({**kept, "dtype": dtype}, indent=2, sort_keys=True) + "\n")
    for path in files_below(target):
        sync_file(path)
    sync_directory(target)
