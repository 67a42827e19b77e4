"""SFT, DPO and KTO of an adapter: it is what is trained, and the base model with it is what comes out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from .small import MakeWorld

LORA = {"rank": 4, "alpha": 16}
ADAPTED = {"lora": LORA, "optimizer": {"learningRate": 2e-2}, "training": {"steps": 4}, "evaluation": None}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(1, 9).unsqueeze(0), use_cache=False).logits
    return found


def whole(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, local_files_only=True)


@pytest.mark.parametrize("algorithm", ["SFT", "DPO", "KTO"])
def test_the_adapter_on_its_base_is_the_policy_of_the_last_checkpoint(offline_world: MakeWorld, algorithm: str) -> None:
    made = offline_world(algorithm, **ADAPTED)
    made.run_here()
    result = made.result()
    adapter = made.workspace / result.policy
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == LORA["rank"]
    stored = load_file(adapter / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in stored.items() if "lora_B" in name)
    assert result.checkpoint is not None
    (last,) = made.workspace.glob(f"attempts/1/checkpoints/step-*{result.checkpoint.step}/policy")
    expected = logits(whole(last))
    assert torch.allclose(logits(PeftModel.from_pretrained(whole(made.base), str(adapter))), expected, atol=1e-5)
    assert not torch.allclose(logits(whole(made.base)), expected, atol=1e-2)
