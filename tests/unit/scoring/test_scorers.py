from typing import Any

import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.errors import ScorerConfigError

LENGTH = {"length": {"min": 1, "max": 3}}


def plans(*entries: dict[str, Any]) -> list[PlanScorer]:
    return [PlanScorer.model_validate(entry) for entry in entries]


@pytest.mark.parametrize(
    ("grader", "kind"),
    [
        ({"unitTests": {}}, "unitTests"),
        ({"http": {"url": "http://judge"}}, "http"),
    ],
)
def test_graders_of_later_versions_are_refused_by_name(grader: dict[str, Any], kind: str) -> None:
    with pytest.raises(ScorerConfigError, match=rf"scorer later: grader\.{kind} is not supported yet"):
        build_scorers(plans({"name": "later", "grader": grader}))


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
