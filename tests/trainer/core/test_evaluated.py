"""An evaluation by several ranks of a partitioned policy: every rank has other rows, and one may have none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_trainer.measurement import read

from .tiny import Run, World


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 9])
def test_ranks_with_unequal_shares_measure_kl_to_a_partitioned_reference(
    world: Callable[..., World], pods: Callable[..., list[Run]], tmp_path: Path, rows: int
) -> None:
    held_out = tmp_path / "evaluation.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": " ".join(["no"] * at)}) + "\n" for at in range(1, rows + 1)))
    made = world(
        compute={"workers": 2, "zeroStage": 3},
        evaluation={
            "dataset": {
                "name": "evaluation",
                "path": str(held_out),
                "ref": "pvc://data/evaluation.jsonl",
                "format": "Prompts",
                "columns": {"prompt": "prompt"},
            },
            "baselines": ["Base"],
            "scorers": ["sorry"],
        },
        generation={"maxPromptLength": 12},
    )
    for run in pods(made):
        assert run.wait() == 0, run.tail()
    measured = read(made.workspace, "Policy")
    kls = [row.kl for row in measured.rows if row.kl is not None]
    assert len(kls) == rows
    assert any(kl != 0.0 for kl in kls)
    assert made.result().figures["evalKL/Policy"] == pytest.approx(sum(kls) / rows)
