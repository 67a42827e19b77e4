"""Scorers from the JSON a plan holds."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.plan import PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.scorers import Scorers

Build = Callable[..., Scorers]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build one scorer named `s`; it is closed when the test ends."""
    with ExitStack() as stack:

        def make(grader: dict[str, Any], **scorer: Any) -> Scorers:
            plan = PlanScorer.model_validate({"name": "s", "grader": grader, **scorer})
            return stack.enter_context(build_scorers([plan]))

        yield make


@pytest.fixture
def python_grader(build: Build, tmp_path: Path) -> Callable[..., Scorers]:
    """A Python grader from source text, as it comes from a ConfigMap."""

    def make(
        source: str, timeout: str = "5s", function: str = "grade", on_error: str = "Missing", **scorer: Any
    ) -> Scorers:
        path = tmp_path / "grader.py"
        path.write_text(source)
        config = {"configMap": {"name": "graders", "key": "grader.py"}, "timeout": timeout, "function": function}
        return build({"python": config, "onError": on_error}, graderPath=str(path), **scorer)

    return make
