"""PPO finds the optimum of a task that can be solved exactly (TRAINING: the closed-form check)."""

from pathlib import Path

import pytest

from .closed_form import LetterTask

# Settings were chosen on seeds 1 and 2; those judged here were never looked at before.
SEEDS = [11, 12, pytest.param(13, marks=pytest.mark.slow), pytest.param(14, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", [*SEEDS, pytest.param(15, marks=pytest.mark.slow)])
def test_ppo_closes_95_percent_of_the_way_to_the_optimum(tmp_path: Path, seed: int) -> None:
    solved = LetterTask(tmp_path, seed, beta=0.3).solve()
    print(f"seed {seed}: {solved}, share {solved.share:.4f}")
    assert solved.start < solved.best
    # The exact objective can't be better than its optimum: a larger share would mean a wrong measurement.
    assert 0.95 <= solved.share <= 1.0 + 1e-6, solved
