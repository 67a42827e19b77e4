"""Each of our names of GRPO and RLOO is one of TRL's, and none is left out or made up."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.rloo_config import RLOOConfig

from rlhf_operator.api.algorithms import GRPO, GRPOKL, RLOO, RLOOKL, GRPOLoss, ScaleRewards
from rlhf_operator.api.generation import Generation
from rlhf_trainer.groups.names import GRPO_NAMES, RLOO_NAMES, VALUES, group_arguments


def paths(model: type[BaseModel]) -> set[str]:
    """Every field of a block, those of `kl` as kl.<field>."""
    found = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found |= {f"{name}.{one}" for one in inner.model_fields} if nested else {name}  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(("block", "table", "config"), [(GRPO, GRPO_NAMES, GRPOConfig), (RLOO, RLOO_NAMES, RLOOConfig)])
def test_every_field_has_a_name_that_trl_knows(block: Any, table: Mapping[str, str], config: Any) -> None:
    assert set(table) == paths(block)
    assert len(set(table.values())) == len(table)
    settings = block()
    assert set(group_arguments(settings, Generation(), 4)) <= {field.name for field in fields(config)}


def test_values_are_those_of_trl() -> None:
    assert set(VALUES) == {*GRPOLoss, *ScaleRewards}
    block = GRPO(
        group_size=4,
        iterations=3,
        loss=GRPOLoss.DAPO,
        scale_rewards=ScaleRewards.BATCH,
        clip_low=0.1,
        clip_high=0.3,
        kl=GRPOKL(coefficient=0.7, bias_correction=False),
    )
    found = group_arguments(block, Generation(max_response_length=9, temperature=0.5), 5)
    assert found == {
        "num_generations": 4,
        "num_iterations": 3,
        "loss_type": "dapo",
        "scale_rewards": "batch",
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "beta": 0.7,
        "use_bias_correction_kl": False,
        "steps_per_generation": 5,
        "max_completion_length": 9,
        "temperature": 0.5,
        "shuffle_dataset": False,
    }
    assert group_arguments(RLOO(kl=RLOOKL(coefficient=0.2), normalize_advantages=True), Generation(), 1) == {
        "num_generations": 4,
        "num_iterations": 1,
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "normalize_advantages": True,
        "beta": 0.2,
        "steps_per_generation": 1,
        "max_completion_length": 512,
        "temperature": 1.0,
        "shuffle_dataset": False,
    }


@pytest.mark.parametrize(
    ("block", "name"),
    [(GRPO, "normalizeAdvantages"), (GRPO, "miniBatches"), (RLOO, "scaleRewards"), (RLOO, "loss"), (RLOO, "critic")],
)
def test_a_name_that_the_algorithm_does_not_have_is_refused_by_name(block: Any, name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        block.model_validate({name: 1})


@pytest.mark.parametrize(
    ("block", "named"),
    [
        (GRPO(), []),
        (GRPO(scale_rewards=ScaleRewards.GROUP), []),
        (GRPO(kl=GRPOKL(coefficient=0.1)), []),
        (GRPO(scale_rewards=ScaleRewards.GROUP, kl=GRPOKL(coefficient=0.1)), ["grpo.scaleRewards Group"]),
        (GRPO(scale_rewards=ScaleRewards.BATCH, kl=GRPOKL(coefficient=0.1)), ["grpo.scaleRewards Batch"]),
        (GRPO(kl=GRPOKL(coefficient=0.1, bias_correction=False)), ["grpo.kl.biasCorrection"]),
    ],
)
def test_a_coefficient_that_means_something_else_is_warned_of(block: GRPO, named: list[str]) -> None:
    found = block.warnings()
    assert [words.startswith(name) for words, name in zip(found, named, strict=True)] == [True] * len(named)
