"""PPO finds the optimum of a task that can be solved exactly (TRAINING: the closed-form check)."""

from pathlib import Path

import pytest

from .closed_form import LetterTask

# Settings were chosen on seeds 1, 2 and 11 (80 steps are too few for the last: 90 %); these were not looked at before.
SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in (23, 24, 25)]


@pytest.mark.timeout(1800)  # two minutes of one core, and CI's cores are shared
# A minute on an idle core; a machine that builds a cluster beside it takes ten times as long.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [21, 22, *SLOW_SEEDS])
def test_ppo_closes_95_percent_of_the_way_to_the_optimum(tmp_path: Path, seed: int) -> None:
    solved = LetterTask(tmp_path, seed, beta=0.3).solve()
    print(f"seed {seed}: {solved}, share {solved.share:.4f}")
    assert solved.start < solved.best
    # The exact objective can't be better than its optimum: a larger share would mean a wrong measurement.
    assert 0.95 <= solved.share <= 1.0 + 1e-6, solved
