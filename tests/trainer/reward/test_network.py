"""Any backbone gets a head per dimension, with or without an adapter, and comes back as a directory that scores so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from rlhf_operator.api.algorithms import Lora
from rlhf_scoring.encode import Encoder, InputKind
from rlhf_scoring.reward_model import RewardScorer, padded
from rlhf_trainer.engine import gathered_weights
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.reward.network import Network, head_modules, load_network, lora_config, write_model

from .small import NUMBER, make_decoder, make_encoder, word_level

SIZES: dict[str, Any] = {
    "vocab_size": len(NUMBER),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
BACKBONES: dict[str, tuple[bool, dict[str, Any]]] = {
    "bert": (True, {"type_vocab_size": 2}),
    "roberta": (True, {"type_vocab_size": 1, "pad_token_id": 0}),
    "electra": (True, {"embedding_size": 32}),
    "distilbert": (True, {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}),
    "llama": (False, {"num_key_value_heads": 2}),
    "qwen2": (False, {"num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": (False, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}),
}
TEXTS = [("w1 w2", "kind w3"), ("w4", "rude w5 w6"), ("w7 " * 60, "w8")]


def backbone(name: str, folder: Path) -> Path:
    encoder, more = BACKBONES[name]
    torch.manual_seed(4)
    config = AutoConfig.for_model(name, **{**SIZES, **more})
    model = AutoModel.from_config(config) if encoder else AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    word_level(encoder=encoder).save_pretrained(folder)
    return folder


def logits_of(model: Any, network: Network) -> torch.Tensor:
    encoder = Encoder(network.tokenizer, network.input_format)
    batch = padded([encoder.encode(*text) for text in TEXTS], network.pad, network.token_types)
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(**batch).logits)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_comes_back_as_a_directory_that_scores_alike(name: str, tmp_path: Path) -> None:
    network = load_network(backbone(name, tmp_path / "base"), ["kind", "true"], 512, 7, "auto")
    assert network.input_format.kind is (InputKind.PAIR if BACKBONES[name][0] else InputKind.CONCATENATION)
    assert network.input_format.max_length <= 40, "no longer than the model's positions"
    expected = logits_of(network.model, network)
    again = load_network(tmp_path / "base", ["kind", "true"], 512, 7, "auto")
    assert torch.equal(expected, logits_of(again.model, again)), "a new head is drawn from the seed"
    write_model(again, gathered_weights(network.model), None, tmp_path / "version")
    scorer = RewardScorer("x", tmp_path / "version")
    assert scorer.dimensions == ("kind", "true")
    found = torch.tensor(scorer.logits([prompt for prompt, _ in TEXTS], [response for _, response in TEXTS]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [make_encoder, make_decoder])
def test_an_adapter_is_merged_and_the_head_is_trained_whole(make: Any, tmp_path: Path) -> None:
    from peft import get_peft_model

    lora = Lora(rank=4, alpha=8)
    network = load_network(make(tmp_path / "base"), ["overall"], 32, 7, "auto")
    base = logits_of(network.model, network)
    adapted: Any = get_peft_model(network.model, lora_config(lora, network))
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    heads = head_modules(network)
    assert heads
    assert all("lora_" in name or any(head in name for head in heads) for name in trained)
    assert any(heads[0] in name and "lora_" not in name for name in trained)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))
    expected = logits_of(adapted, network)
    assert not torch.allclose(expected, base, atol=1e-3)
    again = load_network(tmp_path / "base", ["overall"], 32, 7, "auto")
    write_model(again, gathered_weights(adapted), lora, tmp_path / "version")
    assert not list((tmp_path / "version").glob("adapter*"))
    scorer = RewardScorer("x", tmp_path / "version")
    found = torch.tensor(scorer.logits([prompt for prompt, _ in TEXTS], [response for _, response in TEXTS]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_backbone_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1" not in name}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights of its own architecture: .*layer\.1"):
        load_network(base, ["overall"], 32, 7, "auto")


def test_too_short_a_length_is_refused_by_its_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"maxLength 4"):
        load_network(make_encoder(tmp_path / "base"), ["overall"], 4, 7, "auto")
