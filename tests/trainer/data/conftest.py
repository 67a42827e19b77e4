"""Where the real data lies: RLHF_DATA, or shared/data beside the checkout. It is never part of the project."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[4] / "shared/data"


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Find a file of real data by its name; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("RLHF_DATA", BESIDE)) / name
        if not path.is_file():
            pytest.skip(f"real data is absent: {name} is neither in ../shared/data nor where RLHF_DATA says")
        return path

    return find
