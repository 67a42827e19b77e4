"""A RewardModel in a cluster in memory, reconciled until it rests."""

from __future__ import annotations

import pytest

from .driver import Driver


@pytest.fixture
def driver() -> Driver:
    return Driver()
