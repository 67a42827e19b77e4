"""Evaluations in real runs whose models are not whole: partitioned over ranks, or adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.measurement import read

from .test_lora import adapted
from .tiny import Run, World


def evaluation(folder: Path, rows: int, *baselines: str) -> dict[str, Any]:
    held_out = folder / "evaluation.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": " ".join(["no"] * at)}) + "\n" for at in range(1, rows + 1)))
    dataset = {
        "name": "evaluation",
        "path": str(held_out),
        "ref": "pvc://data/evaluation.jsonl",
        "format": "Prompts",
        "columns": {"prompt": "prompt"},
    }
    return {"dataset": dataset, "baselines": [*baselines], "scorers": ["sorry"]}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 9])
def test_ranks_with_unequal_shares_measure_kl_to_a_partitioned_reference(
    world: Callable[..., World], pods: Callable[..., list[Run]], tmp_path: Path, rows: int
) -> None:
    made = world(
        compute={"workers": 2, "zeroStage": 3},
        evaluation=evaluation(tmp_path, rows, "Base"),
        generation={"maxPromptLength": 12},
    )
    for run in pods(made):
        assert run.wait() == 0, run.tail()
    measured = read(made.workspace, "Policy")
    kls = [row.kl for row in measured.rows if row.kl is not None]
    assert len(kls) == rows
    assert any(kl != 0.0 for kl in kls)
    assert made.result().figures["evalKL/Policy"] == pytest.approx(sum(kls) / rows)


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_warm_start_and_measured_from_it(
    world: Callable[..., World], tmp_path: Path
) -> None:
    made = adapted(
        world,
        "adapter",
        evaluation=evaluation(tmp_path, 6, "Base", "WarmStart"),
        generation={"maxPromptLength": 12},
        training={"steps": 8},
    )
    run = made.start(micro=8)
    assert run.wait() == 0, run.tail()
    result = made.result()
    assert [each.baseline for each in result.evaluation] == ["Base", "WarmStart"]
    assert all(each.gain is not None and each.length_controlled is not None for each in result.evaluation)
    # From the base, which the warm start has left far behind, it would be several nats.
    last = run.events("step")[-1]["kl"]
    assert result.figures["evalKL/Policy"] == pytest.approx(last, abs=1.0 + last)
