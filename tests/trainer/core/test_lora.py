"""Training an adapter: what it starts from, what it is compared with, and what it leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlhf_operator.api.algorithms import Lora
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_tree
from rlhf_trainer.policy.adapters import TRAINED, add_adapter, merged, reference_adapter, save_adapter
from rlhf_trainer.policy.load import load_tokenizer

from .tiny import PROMPTS, World, make_base

LORA = Lora(rank=4, alpha=8)
IDS = torch.arange(1, 9).unsqueeze(0)


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def moved(base: Path, start: Path | None = None, *, reference: bool = False) -> Any:
    """A model whose adapter has learned something."""
    model = load(base)
    add_adapter(model, LORA, 1, start, reference=reference)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and f".{TRAINED}." in name:
                parameter.add_(torch.randn_like(parameter))
    return model


def test_an_adapter_that_is_merged_or_loaded_by_peft_computes_what_was_trained(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    before = logits(load(base))
    model = moved(base)
    expected = logits(model)
    assert not torch.allclose(expected, before, atol=1e-2)
    with reference_adapter(model):
        assert torch.equal(logits(model), before), "without the adapter it is the base model, bit for bit"
    weights = dict(model.state_dict())
    whole = load(base)
    whole.load_state_dict(merged(weights, LORA, base))
    assert torch.allclose(logits(whole), expected, atol=1e-5)
    assert torch.equal(logits(model), expected), "merging leaves the weights that are trained alone"
    save_adapter(weights, LORA, "pvc://models/base", "sha256:" + "a" * 64, load_tokenizer(base), tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(base), str(tmp_path / "adapter"))
    assert torch.allclose(logits(again), expected, atol=1e-6)


def test_the_reference_of_a_warm_start_is_its_adapter_and_gradients_stay_as_they_are(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    warm = moved(base)
    save_adapter(dict(warm.state_dict()), LORA, "ref", "", load_tokenizer(base), tmp_path / "warm")
    model = moved(base, tmp_path / "warm", reference=True)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all(f".{TRAINED}." in name for name in trainable)
    assert not torch.allclose(logits(model), logits(warm), atol=1e-2)
    with reference_adapter(model):
        assert torch.equal(logits(model), logits(warm))
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable


@pytest.mark.parametrize(("modules", "words"), [("nothing", "nothing"), (["lm_head", "q_proj"], "output layer")])
def test_modules_that_can_not_be_adapted_are_refused(tmp_path: Path, modules: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"lora.targetModules.*{words}"):
        add_adapter(load(make_base(tmp_path / "base")), Lora(target_modules=modules), 1)


def adapted(world: Callable[..., World], name: str, **changes: Any) -> World:
    """A world whose plan has a LoRA warm start and PPO on top."""
    made = world(name, lora={"rank": 4, "alpha": 16}, optimizer={"learningRate": 1e-2}, **changes)
    rows = made.root / "demonstrations.jsonl"
    rows.write_text("".join(json.dumps({"prompt": prompt, "response": "thanks yes"}) + "\n" for prompt in PROMPTS))
    made.changes["warmStart"] = {
        "dataset": {
            "name": "warmStart",
            "path": str(rows),
            "ref": "pvc://data/demonstrations.jsonl",
            "format": "Demonstrations",
            "columns": {"prompt": "prompt", "response": "response"},
        },
        "epochs": 2,
        "batchSize": 12,
        "seed": 3,
        "optimizer": {"learningRate": 3e-2, "schedule": "Constant", "warmupSteps": 0},
    }
    return made


def test_ppo_on_a_warm_start_that_is_an_adapter_starts_at_no_distance(world: Callable[..., World]) -> None:
    made = adapted(world, "adapter")
    run = made.start(micro=8)
    assert run.wait() == 0, run.tail()
    steps = run.events("step")
    assert abs(steps[0]["kl"]) < 1e-4
    assert steps[-1]["kl"] > 1e-4
    policy = made.workspace / made.result().policy
    config = json.loads((policy / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == made.plan.base_model.ref
    assert config["revision"] == digest_tree(made.base)
    assert not (policy / "model.safetensors").exists()
    last = made.result().checkpoint
    assert last is not None
    (whole,) = made.workspace.glob(f"attempts/1/checkpoints/step-*{last.step}/policy")
    again = PeftModel.from_pretrained(load(made.base), str(policy))
    assert torch.allclose(logits(again), logits(load(whole)), atol=1e-5)
    own = made.workspace / "attempts" / "1"
    assert (made.workspace / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((own / "metrics.jsonl").read_text().splitlines()) == made.plan.training.steps
    assert len((own / "samples" / "step-00000002.jsonl").read_text().splitlines()) == 16


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "processes"), [(0, 1), (2, 2), (3, 2)])
def test_a_killed_run_of_an_adapter_ends_with_the_same_weights(
    world: Callable[..., World], stage: int, processes: int
) -> None:
    changes = {"lora": {"output": "Merged"}, "compute": {"procsPerWorker": processes, "zeroStage": stage}}
    digests = []
    for name, killed in (("calm", False), ("killed", True)):
        made = adapted(world, name)
        made.changes["lora"] |= changes["lora"]
        made.changes["compute"] = changes["compute"]
        run = made.start(processes=processes, micro=4)
        attempt = 1
        if killed:
            run.until_step(3)
            run.kill()
            attempt = 2
            run = made.start(processes=processes, micro=4, attempt=attempt)
        assert run.wait(600) == 0, run.tail()
        if not killed:
            assert abs(run.events("step")[0]["kl"]) < 1e-4
        digests.append(made.result().policy_digest)
        assert (made.workspace / made.result().policy / "model.safetensors").is_file()
    assert digests[0] == digests[1]
