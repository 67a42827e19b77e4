import os
from pathlib import Path

import pytest

from rlhf_trainer.preferences.calibration import Temperature
from rlhf_trainer.preferences.evaluate import evaluate
from rlhf_trainer.preferences.prepare import prepare_judgements

from .conftest import MakePlan, dataset

DATA = Path(os.environ.get("RLHF_DATA", Path(__file__).parents[4] / "shared" / "data"))
PANDALM = DATA / "pandalm_human_preferences.jsonl"
COLUMNS = {
    "prompt": ["instruction", "input"],
    "responses": ["response1", "response2"],
    "annotators": ["annotator1", "annotator2", "annotator3"],
    "category": "motivation_app",
}


@pytest.mark.skipif(not PANDALM.is_file(), reason=f"{PANDALM} is not there: set RLHF_DATA to the folder that holds it")
def test_human_preferences_of_pandalm(make_plan: MakePlan, tmp_path: Path) -> None:
    found = prepare_judgements(make_plan(dataset(PANDALM, **COLUMNS), evaluation={"folds": 5}), tmp_path)
    (report,) = found.data.datasets
    named = {str(reason): [example.row for example in tally.examples] for reason, tally in report.dropped.items()}
    assert named["NonStringResponse"] == [90, 135, 257, 334, 391, 399]
    assert report.record.rows == 602
    assert report.record.used + sum(report.record.dropped.values()) == 602
    (agreement,) = report.agreement
    assert agreement.alpha == pytest.approx(0.85, abs=0.02)

    held_out = [row for parts in found.rounds for row in parts.held_out]
    assert len(held_out) == report.comparisons
    for parts in found.rounds:
        assert not {row.prompt for row in parts.held_out} & {row.prompt for part in parts[:2] for row in part}

    length = evaluate(
        "overall",
        held_out,
        [float(len(row.first)) for row in held_out],
        [float(len(row.second or "")) for row in held_out],
        temperatures=[Temperature()],
        seed=1,
    ).figures()
    assert length.accuracy == length.length_accuracy == pytest.approx(0.655, abs=0.02)
    assert length.accuracy_interval is not None
    assert length.accuracy_interval[0] > 0.5
