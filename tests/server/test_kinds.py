"""Every kind of model that the judge asks vLLM in its own way: scores equal to the trainer's."""

import pytest

from judgekit.models import PAIRS, Kind, in_process
from judgekit.process import JudgeProcess

from .conftest import Served

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "served",
    [(Kind.ENCODER, 1), (Kind.DECODER, 1), (Kind.DECODER, 3)],
    indirect=True,
    ids=lambda kind: f"{kind[0]}-{kind[1]}",
)
def test_served_scores_are_those_of_the_trainer(served: Served, judge: JudgeProcess) -> None:
    answer = judge.score([{"prompt": prompt, "response": response} for prompt, response in PAIRS])
    expected = in_process(served.version, PAIRS)
    got = [score["dimensions"] for score in answer.json()["scores"]]
    difference = max(abs(one[name] - other[name]) for one, other in zip(got, expected, strict=True) for name in other)
    print(f"\nlargest difference {difference:.1e}")
    assert difference < 1e-3
    assert (
        max(scores[name] for scores in expected for name in scores)
        - min(scores[name] for scores in expected for name in scores)
        > 0.1
    ), "the model tells the texts apart"
