"""Low-rank adapters inside a policy: put in, switched for the reference, merged, written (Hu et al. 2021).

PEFT's layers are put into the model in place, so everything else sees the same class with the same parts. The adapter
that is trained is `default`; a warm start's lies beside it as `ref`, frozen, or the reference would be the base model.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_operator.api.algorithms import Lora
from rlhf_trainer.engine import Engine
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import files_below, sync_directory, sync_file

ADAPTER_FOLDER = "adapter"
"""Below the policy of a warm start that was trained as an adapter."""
TRAINED, REFERENCE = "default", "ref"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
# As PEFT names what it saves of a model that it wraps.
_PREFIX = "base_model.model."


def lora_config(lora: Lora) -> LoraConfig:
    """PEFT's configuration of a plan's adapter."""
    # A text alone would be taken for a pattern.
    modules = lora.target_modules
    targets = [modules] if isinstance(modules, str) and modules != "all-linear" else modules
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets,
    )


def add_adapter(model: Any, lora: Lora, seed: int, start: Path | None = None, *, reference: bool = False) -> None:
    """Put an adapter into a causal language model and freeze the rest.

    seed: of its random half, the same on every rank; start: an adapter to go on from. reference: keep that one beside
    it, frozen. Raises ConfigError when the model has no such modules.
    """
    names = [TRAINED, REFERENCE] if reference and start is not None else [TRAINED]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Two adapters in one model are what is wanted.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        torch.manual_seed(seed)
        for name in names:
            try:
                inject_adapter_in_model(lora_config(lora), model, name)
            except ValueError as error:
                words = next(iter(str(error).splitlines()), "")[:300]
                raise ConfigError(f"lora.targetModules: {words}") from error
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    if any(isinstance(module, LoraLayer) for module in ends):
        raise ConfigError(
            "lora.targetModules names the embeddings or the output layer, which share weights: leave them"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{TRAINED}." in name)
    for layer in _layers(model):
        layer._active_adapter = [TRAINED]
    if start is not None:
        stored = load_file(start / _WEIGHTS)
        for name in names:
            _fill(model, stored, name)


def _fill(model: nn.Module, stored: Mapping[str, Tensor], name: str) -> None:
    own = {key: value for key, value in model.state_dict(keep_vars=True).items() if f".{name}." in key}
    wanted = {_stored_name(key, name) for key in own}
    if wanted != stored.keys():
        raise ConfigError("lora: the warm start's adapter has other modules than lora.targetModules names")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(stored[_stored_name(key, name)])


def _stored_name(key: str, name: str) -> str:
    return _PREFIX + key.replace(f".{name}.", ".")


@contextmanager
def reference_adapter(module: nn.Module) -> Iterator[None]:
    """Compute with the warm start's adapter, or without any where there is none.

    PEFT's own switches turn gradients on and off as well, which an engine does not stand once it is started.
    """
    layers = _layers(module)
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        kept = REFERENCE in layer.lora_A
        layer._active_adapter, layer._disable_adapters = [REFERENCE] if kept else [TRAINED], not kept
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def reference_of(engine: Engine) -> Callable[..., Any]:
    """The reference model inside a policy that is trained as an adapter; every rank calls it together."""

    def judge(*inputs: Any) -> Any:
        with reference_adapter(engine.module):
            return engine(*inputs)

    return judge


def _layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


def merged(weights: Mapping[str, Tensor], lora: Lora, base: Path) -> dict[str, Tensor]:
    """The whole model's weights with the trained adapter added, named as the base model names them.

    weights: of the model with adapters, whole and on the CPU; they are left as they are.
    """
    model = _shape(lora, base)
    model.load_state_dict(_without_reference(weights), assign=True)
    found = {}
    deltas: dict[str, Any] = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for key, value in model.state_dict().items():
        if ".lora_" in key:
            continue
        layer = key.rpartition(".base_layer.")[0]
        if layer in deltas and key.endswith(".weight"):
            value = value + deltas[layer].get_delta_weight(TRAINED).to(value.dtype)
        found[key.replace(".base_layer.", ".")] = value.detach()
    return found


def _shape(lora: Lora, base: Path) -> Any:
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        inject_adapter_in_model(lora_config(lora), model, TRAINED)
    return model


def _without_reference(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(_PREFIX): value for key, value in weights.items() if f".{REFERENCE}." not in key}


def save_adapter(
    weights: Mapping[str, Tensor], lora: Lora, base_ref: str, base_digest: str, tokenizer: Any, target: Path
) -> None:
    """Write the trained adapter as PEFT does: its weights, and a configuration that names the base by its digest."""
    target.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in _without_reference(weights).items() if f".{TRAINED}." in key}
    save_file({_stored_name(key, TRAINED): value.contiguous() for key, value in own.items()}, target / _WEIGHTS)
    config = lora_config(lora)
    config.base_model_name_or_path, config.revision, config.inference_mode = base_ref, base_digest, True
    # Sets are written in no order, and the digest is over the file.
    fields = config.to_dict()  # type: ignore[no-untyped-call]
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    (target / _CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")
    tokenizer.save_pretrained(target)
    for path in files_below(target):
        sync_file(path)
    sync_directory(target)
