from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanSource
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.preferences.must_prefer import must_prefer, read_must_prefer

from .conftest import write_lines

PAIR = {"prompt": "How?", "chosen": "Safely.", "rejected": "Anyhow."}


def source(tmp_path: Path, *rows: Any) -> PlanSource:
    return PlanSource(path=str(write_lines(tmp_path / "edge.jsonl", *rows)), ref="configmap://edge/pairs.jsonl")


def test_an_equal_or_missing_score_is_not_right(tmp_path: Path) -> None:
    pairs = read_must_prefer(source(tmp_path, PAIR, PAIR | {"prompt": "When?"}, PAIR, PAIR))
    found = must_prefer(pairs, [1.0, 1.0, None, 0.5], [0.0, 1.0, 0.0, 2.0])
    assert found.pairs == 4
    assert [each.row for each in found.missed] == [2, 3, 4]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((PAIR, "{"), "row 2 .*Every pair must count"),
        ((PAIR | {"chosen": True},), "row 1 .*not a string"),
        ((PAIR | {"chosen": "Anyhow."},), "the same"),
        (({"prompt": "p", "chosen": "c"},), "no column rejected"),
        ((), "holds no pairs"),
        ((PAIR | {"rejected": "x" * (3 << 20)},), "row 1 .*more than"),
    ],
)
def test_a_pair_that_cannot_be_read_stops_the_run(tmp_path: Path, rows: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as found:
        read_must_prefer(source(tmp_path, *rows))
    assert found.value.reason == "InvalidMustPrefer"
