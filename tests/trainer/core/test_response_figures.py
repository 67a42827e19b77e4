"""Figures of responses are measured, not assumed: variety, and how far sampler and trainer are apart."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.algorithms.batch import distinct_pairs
from rlhf_trainer.sampling import row_keys

from .closed_form import LENGTH, LetterTask, OnePrompt

responses = st.lists(st.lists(st.integers(0, 200_000), min_size=0, max_size=6), min_size=1, max_size=6)


@given(responses)
def test_distinct_pairs_are_those_that_a_set_finds(rows: list[list[int]]) -> None:
    tokens, mask = torch.full((len(rows), 6), 7), torch.zeros(len(rows), 6)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[place, : len(row)] = 1.0
    pairs = [pair for row in rows for pair in itertools.pairwise(row)]
    assert distinct_pairs(tokens, mask) == pytest.approx(len(set(pairs)) / len(pairs) if pairs else 0.0)


def test_sampler_and_trainer_agree_and_a_trainer_that_is_another_model_is_seen(tmp_path: Path) -> None:
    task = LetterTask(tmp_path, 3, beta=0.3)
    worker = task.trainer._worker
    rows = [OnePrompt([1])] * 64
    keys = row_keys(1, "rollout", 1, torch.arange(64))
    batch = worker.make(1, rows, keys).batch
    assert batch.sampled.shape == batch.logprobs.shape == (64, LENGTH)
    assert float(batch.sampled.sum()) < -64, "log-probabilities of what was drawn, not zeros"
    assert 0 <= batch.figures()["logProbDrift"] < 1e-5

    responses = worker.sample([[1]] * 64, keys)
    with torch.no_grad():
        for weight in task.policy.module.parameters():
            weight.mul_(1.1)
    changed = worker._judge([[1]] * 64, responses)
    expected = ((changed.logprobs - changed.sampled).abs() * changed.response_mask).sum() / changed.response_mask.sum()
    assert changed.figures()["logProbDrift"] == pytest.approx(float(expected))
    assert changed.figures()["logProbDrift"] > 1e-3
