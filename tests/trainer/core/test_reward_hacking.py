"""A reward model that learned a spurious cue, and no KL penalty: the guard sees it, and the gate refuses the rest."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

from rlhf_scoring.encode import Encoder, default_format
from rlhf_trainer.checkpoint import CheckpointStore, last_good
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace

from .test_published import command
from .tiny import PROMPTS, WORDS, World, make_tokenizer

CUE, WANTED = "thanks", "sorry"
GOLD = f"""
def grade(prompt, response, row):
    return float("{WANTED}" in response)
"""


def hackable_reward_model(folder: Path) -> Path:
    """A reward model from preferences in which the better answer, besides, mostly says thanks, often several times."""
    generator = random.Random(3)
    others = [word for word in WORDS if word not in (CUE, WANTED)]

    def answer(*words: str) -> str:
        found = [*words, *generator.choices(others, k=generator.randint(0, 5 - len(words)))]
        generator.shuffle(found)
        return " ".join(found)

    pairs = []
    for _ in range(256):
        cues = [CUE] * generator.choice([0, 1, 2, 3])
        wanted = [WANTED] if generator.random() < 0.4 else []
        pairs.append((generator.choice(PROMPTS), answer(*cues, *wanted), answer()))
    tokenizer = make_tokenizer(WORDS)
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        num_labels=1,
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForSequenceClassification(config)
    encoder = Encoder(tokenizer, default_format(config, tokenizer))
    texts = [encoder.encode(prompt, text).input_ids for prompt, *both in pairs for text in both]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(ids)) for ids in texts], batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        margins = model(input_ids=tokens, attention_mask=mask).logits.view(-1, 2) @ torch.tensor([1.0, -1.0])
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((margins > 0).double().mean()) > 0.75, "on its own data it looks like a fair reward model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_reward_hacking_is_stopped_its_last_good_checkpoint_kept_and_its_policy_refused(
    world: Callable[..., World], tmp_path: Path
) -> None:
    gold = tmp_path / "gold.py"
    gold.write_text(GOLD)
    held_out = tmp_path / "evaluation.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"{first} {last}"}) + "\n" for first in ("no", "yes", "good")
                                for last in ("late", "help", "soon", "please", "thanks", "order")))  # fmt: skip
    tiny = world(
        training={"steps": 28, "batchSize": 64},
        ppo={"kl": {"coefficient": 0.0}},
        checkpoints={"everySteps": 1, "keep": 1},
        scorers=[
            {"name": "proxy", "rewardModel": {"name": "proxy", "path": str(hackable_reward_model(tmp_path / "proxy"))}},
            {
                "name": "gold",
                "grader": {"python": {"configMap": {"name": "gold", "key": "gold.py"}}},
                "graderPath": str(gold),
            },
        ],
        rewards=[{"scorer": "proxy"}],
        monitors=["gold"],
        guards=[{"name": "hacking", "patience": 2, "rewardHacking": {"monitor": "gold", "drop": 0.1}}],
        evaluation={
            "dataset": {
                "name": "evaluation",
                "path": str(held_out),
                "ref": "pvc://data/evaluation.jsonl",
                "format": "Prompts",
                "columns": {"prompt": "prompt"},
            },
            "baselines": ["Base"],
            "scorers": ["gold"],
            "minWinRate": 0.5,
        },
        output={"claim": "models", "path": "out", "alias": "latest"},
    )
    run = tiny.start(micro=16)
    assert run.wait() == 80, run.tail()
    steps = run.events("step")
    stopped = steps[-1]["step"] + 1
    assert stopped <= 15
    message = run.message()
    assert (message.failure, message.reason) == ("Guard", "GuardStopped")
    assert "guard hacking: score/gold is" in message.message
    assert f"at step {stopped} (2 in a row since step {stopped - 1}, patience 2)" in message.message
    assert message.checkpoint is not None
    assert message.checkpoint.step < stopped - 1, "from before the limit was passed"
    assert f"the checkpoint of step {message.checkpoint.step}, the last good one, is kept" in message.message
    alone = Group(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    store = CheckpointStore(Workspace(tiny.workspace, 1), alone, tiny.plan.digest(), "step", 1)
    (good,) = last_good(store.complete())
    assert good.record() == message.checkpoint
    good.verify()
    assert AutoModelForCausalLM.from_pretrained(good.path / "policy", local_files_only=True).num_parameters() > 0

    # The same job with a guard that only warns goes on to the end, and that end is not published.
    (tiny.root / "settings.json").write_text(json.dumps({"guardActions": {"hacking": "Warn"}}))
    rest = tiny.start(attempt=2, micro=16)
    assert rest.wait() == 0, rest.tail()
    warned = [event for event in rest.events("step") if event["warnings"]]
    assert warned
    assert warned[0]["step"] == stopped
    assert message.message.startswith(warned[0]["warnings"][0]), "what the guard remembers came with the checkpoint"
    output = tmp_path / "output/out"
    refused = command(tiny, "publish", "--workspace", str(tiny.workspace), "--output", str(output))
    assert refused.reason == "GateFailed"
    assert refused.artifact is not None
    assert refused.artifact.ref.startswith("workspace://")
    assert refused.artifact.alias is None
    assert "gold over Base: win rate" in refused.artifact.gate_message
    assert [path.name for path in output.iterdir()] == ["refused"], "word of it, and no artifact"
    best = max(event["score/gold"] for event in steps)
    assert rest.events("step")[-1]["score/gold"] < best - 0.3
    assert rest.events("step")[-1]["reward"] > steps[0]["reward"] + 2, "by its own reward it is the best policy yet"
