from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import GraderFailed, ScorerConfigError
from rlhf_scoring.judge import ROW_NUMBER, Judgement, Row, TextGrader
from rlhf_scoring.scorers import Scorers

LENGTH = {"length": {"min": 1, "max": 3}}


def plans(*entries: dict[str, Any]) -> list[PlanScorer]:
    return [PlanScorer.model_validate(entry) for entry in entries]


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(ScorerConfigError, match="used twice"):
        build_scorers(plans({"name": "s", "grader": LENGTH}, {"name": "s", "grader": LENGTH}))


def test_digests_tell_configurations_apart() -> None:
    with build_scorers(
        plans(
            {"name": "a", "grader": LENGTH},
            {"name": "b", "grader": LENGTH},
            {"name": "c", "grader": {"length": {"min": 1, "max": 4}}},
        )
    ) as scorers:
        digests = scorers.digests()
    assert digests["a"] == digests["b"] != digests["c"]
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests.values())


def test_times_are_counted_per_text() -> None:
    with build_scorers(plans({"name": "a", "grader": LENGTH})) as scorers:
        scorers.score("a", ["p"] * 40, ["r"] * 40, [{}] * 40)
        timing = scorers.timing("a")
    assert timing.texts == 40
    assert 0.0 < timing.p95_seconds < 0.1
    assert (timing.missing, timing.timeouts) == (0, 0)


def test_no_texts_no_scores() -> None:
    with build_scorers(plans({"name": "a", "grader": LENGTH})) as scorers:
        assert scorers.score("a", [], [], []) == []
        assert scorers.timing("a").p95_seconds == 0.0


class Raising(TextGrader):
    """A grader with a bug that some texts bring out."""

    def grade(self, response: str, row: Row) -> Judgement:
        """Divide by the response's length."""
        return 1.0 / len(response)


class Numberless:
    """A model whose weights left the numbers."""

    digest = "sha256:" + "0" * 64

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Say that nothing is a number."""
        return [float("nan")] * len(responses)

    def close(self) -> None:
        """Nothing is held."""


ROWS = [{ROW_NUMBER: 7}, {ROW_NUMBER: 8}]


def test_a_graders_bug_costs_one_row_or_the_run_as_the_plan_says() -> None:
    grader = Raising("sha256:" + "1" * 64)
    lenient, strict = Scorers({"s": grader}, ExitStack()), Scorers({"s": grader}, ExitStack(), strict=["s"])
    assert lenient.score("s", ["p"] * 2, ["", "ab"], ROWS) == [None, 0.5]
    assert lenient.timing("s").last_missing == "row 7: ZeroDivisionError: float division by zero"
    with pytest.raises(GraderFailed, match="scorer s failed on row 7: ZeroDivisionError"):
        strict.score("s", ["p"] * 2, ["", "ab"], ROWS)


def test_a_score_that_is_no_number_is_never_used() -> None:
    with pytest.raises(GraderFailed, match="row 7: the score is nan"):
        Scorers({"s": Numberless()}, ExitStack(), strict=["s"]).score("s", ["p"] * 2, ["a", "b"], ROWS)
    assert Scorers({"s": Numberless()}, ExitStack()).score("s", ["p"] * 2, ["a", "b"], ROWS) == [None, None]


def test_what_a_reward_model_fails_on_ends_the_run_whatever_graders_do() -> None:
    plan = PlanScorer.model_validate({"name": "rm", "rewardModel": {"name": "rm", "url": "http://127.0.0.1:9"}})
    with build_scorers([plan, *plans({"name": "lenient", "grader": LENGTH})]) as scorers:
        assert scorers.strict == {"rm"}
