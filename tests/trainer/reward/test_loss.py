"""The loss and its input, held against formulas and against the encoding that serves."""

import math

import pytest
import torch

from rlhf_scoring.encode import Encoder, InputFormat, InputKind
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.reward.trainer import PairCollator, margins, preference_loss

from .small import word_level


def judged(row: int = 1, **fields: object) -> Judged:
    given: dict[str, object] = {
        "row": row,
        "prompt": "w1 w2",
        "first": "kind w3",
        "second": "rude w4 w5",
        "p_first": 1.0,
        "tie": False,
        "weight": 1.0,
        "dimension": "helpful",
        "group": row,
        "slices": {},
    }
    return Judged(**{**given, **fields})  # type: ignore[arg-type]


def test_soft_labels_and_weights_enter_the_loss_as_the_formula_says() -> None:
    margin, p_first, weight = [1.3, -0.4, 0.0], [1.0, 0.75, 0.5], [2.0, 0.5, 0.5]
    expected = 0.0
    for delta, p, w in zip(margin, p_first, weight, strict=True):
        s = 1 / (1 + math.exp(-delta))
        expected -= w * (p * math.log(s) + (1 - p) * math.log(1 - s))
    found = preference_loss(torch.tensor(margin), torch.tensor(p_first), torch.tensor(weight))
    assert float(found) == pytest.approx(expected / 3, abs=1e-6)


def test_a_soft_label_is_least_costly_at_its_own_log_odds() -> None:
    deltas = torch.linspace(-4, 4, 801)
    costs = [float(preference_loss(delta.view(1), torch.tensor([0.8]), torch.ones(1))) for delta in deltas]
    best = float(deltas[costs.index(min(costs))])
    assert best == pytest.approx(math.log(0.8 / 0.2), abs=0.02)


def test_each_row_is_compared_in_its_own_dimension_and_a_lone_response_with_zero() -> None:
    logits = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [0.5, 5.0], [7.0, 70.0]])
    found = margins(logits, torch.tensor([3, -1, 4]), torch.tensor([0, 1, 1]))
    assert found.tolist() == [0.5, 20.0, -40.0]


@pytest.mark.parametrize("kind", [InputKind.PAIR, InputKind.CONCATENATION])
def test_a_batch_holds_the_encoding_that_serves(kind: InputKind) -> None:
    encoder = Encoder(word_level(encoder=kind is InputKind.PAIR), InputFormat(kind=kind, max_length=10))
    rows = [judged(1), judged(2, second=None, dimension="safe", p_first=0.0, weight=3.0), judged(3, prompt="w6 " * 30)]
    collator = PairCollator(rows, encoder, ["helpful", "safe"], pad=0, token_types=kind is InputKind.PAIR)
    batch = collator([{"index": 0}, {"index": 1}, {"index": 2}])
    texts = [(row.prompt, row.first) for row in rows] + [(row.prompt, row.second) for row in rows if row.second]
    for at, (prompt, response) in enumerate(texts):
        expected = encoder.encode(prompt, response)
        length = len(expected.input_ids)
        assert length <= 10
        assert batch["input_ids"][at, :length].tolist() == expected.input_ids
        assert int(batch["attention_mask"][at].sum()) == length
        if kind is InputKind.PAIR:
            assert batch["token_type_ids"][at, :length].tolist() == expected.token_type_ids
    assert ("token_type_ids" in batch) == (kind is InputKind.PAIR)
    assert batch["second"].tolist() == [3, -1, 4]
    assert batch["head"].tolist() == [0, 1, 0]
    assert batch["weight"].tolist() == pytest.approx([0.6, 1.8, 0.6]), "the mean over the data is 1"
