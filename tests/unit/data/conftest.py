"""The plan that data tests start from."""

import pytest

from smalldata import MakePlan
from smallplan import plan_of


@pytest.fixture
def make_plan() -> MakePlan:
    return plan_of
