"""Versions made of graders, and judges that hold them: no model and no engine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from judgekit.local import Running, holding
from judgekit.versions import Version, graders_version
from rlhf_operator.api.scorerfile import Probe

GRADERS: list[dict[str, Any]] = [
    {
        "dimension": "brief",
        "weight": 1.0,
        "scorer": {"name": "short", "grader": {"length": {"unit": "Words", "max": 2, "slack": 2}}},
    },
    {
        "dimension": "polite",
        "weight": 3.0,
        "scorer": {"name": "please", "grader": {"regex": {"pattern": "please"}}},
    },
    {
        "dimension": "polite",
        "weight": 1.0,
        "scorer": {"name": "thanks", "grader": {"regex": {"pattern": "thanks"}}},
    },
]
PROBES = [
    Probe(prompt="p", response="thanks", scores={"brief": 1.0, "polite": 0.25}),
    Probe(prompt="p", response="please a b", scores={"brief": 0.5, "polite": 0.75}),
]


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Two dimensions, three graders."""
    return graders_version(tmp_path_factory.mktemp("graders"), GRADERS, ["brief", "polite"], PROBES)


@pytest.fixture(scope="module")
def judge(version: Version) -> Iterator[Running]:
    """A judge with small limits that holds it."""
    with holding(version, max_items=4, max_text_bytes=64, max_body_bytes=1024, queue_depth=8) as running:
        yield running


@pytest.fixture
def hold() -> Iterator[Callable[..., Running]]:
    """Hold a version of the test's own."""
    with ExitStack() as stack:
        yield lambda version, **changes: stack.enter_context(holding(version, **changes))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Version]:
    """A version of the graders given, one dimension `overall`."""

    def make(*graders: dict[str, Any], probes: list[Probe]) -> Version:
        return graders_version(tmp_path / "version", graders, ["overall"], probes)

    return make
