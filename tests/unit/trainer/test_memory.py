"""The memory estimate: what is divided by whom, which phase is the peak, and what a refusal says."""

import argparse

import pytest
import torch
from torch import nn

from rlhf_operator.api.plan import PlanCompute
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.memory.check import refuse_too_much
from rlhf_trainer.memory.parts import BUCKET, PROCESS_BYTES, Estimate, ModelSize, Part, Phase, Sizes, estimate
from rlhf_trainer.memory.trace import peak_bytes, without_storage
from rlhf_trainer.options import quantity
from smallplan import COMPUTE, plan_of

P, C = 7_000_000_000, 6_000_000_000
GIB = 1 << 30
SIZES = Sizes(
    policy=ModelSize(parameters=P, trained=P, update=20 * GIB, forward=3 * GIB),
    critic=ModelSize(parameters=C, trained=C, update=15 * GIB, forward=2 * GIB),
    reference_parameters=P,
    scorers=GIB,
    generation=8 * GIB,
    batch=GIB,
)
DATASET = {
    "name": "train",
    "path": "/data/p.jsonl",
    "ref": "pvc://data/p.jsonl",
    "format": "Prompts",
    "columns": {"prompt": "p"},
}


def compute(**changes: object) -> PlanCompute:
    return PlanCompute.model_validate(COMPUTE | changes)


def parts(found: Estimate, *, host: bool = False) -> dict[str, int]:
    return {part.name: part.bytes for part in found.parts if part.host == host}


def test_one_process_holds_everything_in_float32() -> None:
    found = estimate(SIZES, compute())
    expected = PROCESS_BYTES + 4 * (P + C) + 8 * (P + C) + 4 * (P + C) + 4 * P + GIB + GIB + 20 * GIB
    assert found.peak() == (Phase.UPDATE, expected)


@pytest.mark.parametrize(("stage", "weights"), [(2, 2 * P), (3, 2 * P // 8)])
def test_zero_divides_by_all_ranks_what_its_stage_divides(stage: int, weights: int) -> None:
    gpus = compute(gpusPerWorker=8, procsPerWorker=8, zeroStage=stage, precision="bf16")
    found = parts(estimate(SIZES, gpus))
    assert found["policy weights"] == weights
    assert found["policy optimizer and float32 weights"] == 12 * P // 8
    assert found["policy gradients"] == 2 * P // 8
    assert found["policy gradient bucket"] == 2 * BUCKET
    assert found["reference weights"] == weights
    assert ("policy gathered for generation" in found) == (stage == 3)


def test_offload_moves_the_optimizer_to_the_pod() -> None:
    gpus = compute(gpusPerWorker=8, procsPerWorker=8, zeroStage=2, precision="bf16", offload="Optimizer")
    found = estimate(SIZES, gpus)
    assert "policy optimizer and float32 weights" not in parts(found)
    assert parts(found, host=True)["policy optimizer and float32 weights"] == 12 * P // 8


def test_an_adapter_trains_few_parameters_and_needs_no_second_reference() -> None:
    small = ModelSize(parameters=P, trained=10_000_000, update=GIB, forward=GIB)
    adapted = Sizes(policy=small, critic=None, reference_parameters=0, scorers=0, generation=0, batch=0)
    found = parts(estimate(adapted, compute()))
    assert found["policy optimizer"] == 80_000_000
    assert found["reference weights"] == 0


def test_a_refusal_names_the_greatest_parts_and_what_helps() -> None:
    plan = plan_of(DATASET, compute=COMPUTE | {"gpusPerWorker": 8, "procsPerWorker": 8, "zeroStage": 2})
    found = estimate(SIZES, plan.compute)
    with pytest.raises(ConfigError) as caught:
        refuse_too_much(found, plan, 80 * GIB, host=False)
    assert caught.value.reason == "NotEnoughMemory"
    for words in ("80.00 GiB", "policy weights 26.08 GiB", "zeroStage: 3", "offload: Optimizer"):
        assert words in caught.value.message
    refuse_too_much(found, plan, 1000 * GIB, host=False)


def test_activations_that_are_the_most_call_for_smaller_micro_batches() -> None:
    plan = plan_of(DATASET)
    found = Estimate((Part("weights", 1), Part("activations of a micro-batch", 10, Phase.UPDATE)))
    with pytest.raises(ConfigError, match=r"microBatchSize.*gradientCheckpointing"):
        refuse_too_much(found, plan, 5, host=False)


def test_a_trace_counts_what_lives_at_once_and_no_weights() -> None:
    def twice(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.exp() + 1.0

    with without_storage():
        module = nn.Linear(100, 100)
        inputs = torch.zeros(10, 100)
        # The exponential lives until the sum with 1 is there: two of 10 x 100 float32.
        assert peak_bytes(module, lambda: twice(inputs)) == 2 * 10 * 100 * 4
        # Squares keep the product for their gradient, which lives beside it when the weight's own is made.
        taken = peak_bytes(module, lambda: module(inputs).square().sum().backward())
    assert 4 * (100 * 100 + 100 + 10 * 100) <= taken <= 4 * (100 * 100 + 100 + 4 * 10 * 100)


@pytest.mark.parametrize(("text", "count"), [("80Gi", 80 << 30), ("1.5G", 1_500_000_000), ("7", 7), ("512Mi", 1 << 29)])
def test_quantities_are_those_of_kubernetes(text: str, count: int) -> None:
    assert quantity(text) == count


@pytest.mark.parametrize("text", ["", "80GB", "-1Gi", "1e9"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="80Gi"):
        quantity(text)
