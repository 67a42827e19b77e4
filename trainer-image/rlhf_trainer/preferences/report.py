"""report.json: everything that was measured of a version, in full. The page for people is report_page.py."""

from rlhf_operator.api.base import Model
from rlhf_operator.api.rewardgate import RewardFigures

from .datareport import DataReport
from .measures import DimensionReport

__all__ = ["DataReport", "DimensionReport", "RewardReport"]


class RewardReport(Model):
    """One version. It holds no time, node or attempt: the same training gives the same bytes."""

    name: str
    """The RewardModel."""
    plan_digest: str
    dimensions: tuple[DimensionReport, ...]
    data: DataReport | None = None

    def figures(self) -> list[RewardFigures]:
        """What the gate judges, by dimension."""
        return [each.figures() for each in self.dimensions]
