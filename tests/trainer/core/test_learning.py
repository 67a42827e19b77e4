"""PPO raises its reward, and says at what distance from the reference."""

import json
from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_trainer.files import digest_tree

from .tiny import World


def test_the_reward_rises_and_the_policy_can_be_loaded(world: Callable[..., World]) -> None:
    made = world(training={"steps": 25, "batchSize": 32}, ppo={"kl": {"coefficient": 0.02}})
    run = made.start(micro=16)
    assert run.wait() == 0, run.tail()
    steps = run.events("step")
    rewards = [event["reward"] for event in steps]
    assert abs(steps[0]["kl"]) < 1e-5, "nothing has moved before the first update"
    assert sum(rewards[:3]) / 3 < 0.55, rewards
    assert sum(rewards[-3:]) / 3 > 0.85, rewards
    assert 0.1 < steps[-1]["kl"] < 20
    result = made.result()
    policy = made.workspace / result.policy
    assert digest_tree(policy) == result.policy_digest
    assert digest_tree(made.base) == result.base_model_digest
    model = AutoModelForCausalLM.from_pretrained(policy, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(policy, local_files_only=True)
    assert model.config.vocab_size == len(tokenizer)
    assert json.loads(Path(policy, "generation_config.json").read_text()) == json.loads(
        (made.base / "generation_config.json").read_text()
    ), "the artifact keeps the base's generation config"
