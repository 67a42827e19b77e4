"""A run whose scorers have fallen silent ends with their name, and not as a success."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.algorithms.judged import MAX_EMPTY_BATCHES
from rlhf_trainer.errors import ConfigError

from .closed_form import LetterTask, TableScorers


def test_batches_without_a_score_have_no_reward_and_end_the_run_by_the_scorers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: TableScorers, name: str, prompts: Any, responses: list[str], rows: Any) -> list[float | None]:
        return [None] * len(responses)

    task = LetterTask(tmp_path, 11, beta=0.3)
    assert "reward" in task.trainer.step(1)
    monkeypatch.setattr(TableScorers, "score", silent)
    for step in range(2, MAX_EMPTY_BATCHES + 1):
        figures = task.trainer.step(step)
        assert "reward" not in figures
        assert figures["scoreMissing/table"] == 1
    with pytest.raises(ConfigError, match="scorer table gave no score") as caught:
        task.trainer.step(MAX_EMPTY_BATCHES + 1)
    assert caught.value.reason == "NothingToLearn"
