"""Base models that can't be used end in one ConfigError that names the file; nothing is made up in their place."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.policy.load import (
    MAX_CONFIG_BYTES,
    check_model_directory,
    end_tokens,
    load_causal_lm,
    load_tokenizer,
)

from .tiny import make_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def weights_file(base: Path) -> Path:
    return next(base.glob("*.safetensors"))


def load(base: Path) -> None:
    check_model_directory(base, "baseModel")
    end_tokens(base, load_tokenizer(base))
    load_causal_lm(base, torch.float32, "auto")


def configure(base: Path, name: str = "config.json", **changes: object) -> None:
    path = base / name
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, **changes}))


def test_a_weight_that_is_not_in_the_files_is_named_and_not_drawn_at_random(base: Path) -> None:
    weights = load_file(weights_file(base))
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, weights_file(base), metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.up_proj") as caught:
        load(base)
    assert caught.value.reason == "WeightsMissing"


def test_a_weight_of_another_shape_is_refused(base: Path) -> None:
    weights = load_file(weights_file(base))
    weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, weights_file(base), metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="causal language model"):
        load(base)


def test_a_tied_output_layer_needs_no_weights_of_its_own(base: Path) -> None:
    weights = load_file(weights_file(base))
    del weights["lm_head.weight"]
    save_file(weights, weights_file(base), metadata={"format": "pt"})
    configure(base, tie_word_embeddings=True)
    load(base)


@pytest.mark.parametrize("damaged", ["weights", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_damaged_file_is_a_config_error_and_not_a_crash(base: Path, damaged: str) -> None:
    path = weights_file(base) if damaged == "weights" else base / damaged
    path.write_bytes(b"\x7fELF" * 30)
    with pytest.raises(ConfigError):
        load(base)


def test_a_configuration_without_bounds_is_not_read(base: Path) -> None:
    with (base / "config.json").open("r+b") as file:
        os.ftruncate(file.fileno(), MAX_CONFIG_BYTES + 1)
    with pytest.raises(ConfigError, match=str(MAX_CONFIG_BYTES)):
        check_model_directory(base, "baseModel")


@pytest.mark.parametrize("configured", [3, [3, 5]])
def test_every_end_token_of_both_configurations_ends_a_response(base: Path, configured: object) -> None:
    configure(base, eos_token_id=configured)
    configure(base, "generation_config.json", eos_token_id=7)
    more = [3] if configured == 3 else [3, 5]
    assert end_tokens(base, load_tokenizer(base)) == [0, *more, 7]


def test_an_end_token_that_is_no_id_is_refused(base: Path) -> None:
    configure(base, eos_token_id="</s>")
    with pytest.raises(ConfigError, match="eos_token_id"):
        end_tokens(base, load_tokenizer(base))
