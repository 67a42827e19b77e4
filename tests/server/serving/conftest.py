"""A pod whose server answers as the test says, on real ports."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from servekit.local import Serving, serving


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Start one with signals and settings of the test's own."""
    with ExitStack() as stack:
        yield lambda signals=None, **changes: stack.enter_context(serving(tmp_path, signals, **changes))


@pytest.fixture
def pod(serve: Callable[..., Serving]) -> Serving:
    """One that records everything."""
    return serve({"trajectorySampleRate": 1.0})
