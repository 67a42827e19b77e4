"""A critic that starts from the reward model, where both are of one kind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlamaForSequenceClassification

from rlhf_trainer.errors import ConfigError
from rlhf_trainer.policy.critic import load_reward_backbone
from rlhf_trainer.policy.load import load_tokenizer

from .tiny import World, make_base, make_tokenizer


def reward_model(directory: Path, like: Path) -> LlamaForSequenceClassification:
    """A reward model with random weights and another model's shape and tokenizer."""
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(like)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(directory)
    load_tokenizer(like).save_pretrained(directory)
    return model


def scored_by(world: Callable[..., World], directory: Path) -> World:
    return world(
        scorers=[{"name": "helpful", "rewardModel": {"name": "helpful", "path": str(directory)}}],
        rewards=[{"scorer": "helpful", "weight": 1.0}],
        ppo={"critic": {"initFrom": "RewardModel", "warmupSteps": 1}},
        training={"steps": 2},
    )


def test_it_has_the_reward_models_weights_and_learns_alone_while_it_warms_up(
    world: Callable[..., World], tmp_path: Path
) -> None:
    made = scored_by(world, tmp_path / "rm")
    model = reward_model(tmp_path / "rm", made.base)
    backbone, head = load_reward_backbone(made.plan, made.base, "auto")
    assert torch.equal(head, model.score.weight[0])
    for name, value in model.model.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value)
    run = made.start()
    assert run.wait() == 0, run.tail()
    steps = run.events("step")
    assert [step["gradNorm"] > 0 for step in steps] == [False, True]
    assert all(step["criticGradNorm"] > 0 for step in steps)


@pytest.mark.parametrize("difference", ["hidden_size", "tokenizer"])
def test_another_kind_is_refused_by_what_differs(world: Callable[..., World], tmp_path: Path, difference: str) -> None:
    made = scored_by(world, tmp_path / "rm")
    like = make_base(tmp_path / "other", width=64) if difference == "hidden_size" else made.base
    reward_model(tmp_path / "rm", like)
    if difference == "tokenizer":
        make_tokenizer(["other", "words"]).save_pretrained(tmp_path / "rm")
    with pytest.raises(ConfigError, match=difference):
        load_reward_backbone(made.plan, made.base, "auto")
