"""The outcome of one check on the way to an attempt. Each policy file returns its own; the first that fails decides."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_operator.api.meta import ConditionStatus
from rlhf_operator.common.conditions import FALSE, TRUE, UNKNOWN
from rlhf_operator.common.reasons import Reason


@dataclass(frozen=True, slots=True)
class Check:
    """Status, reason and words of a condition; `permanent` when only another spec can change it."""

    status: ConditionStatus
    reason: str
    message: str = ""
    permanent: bool = False

    @property
    def passed(self) -> bool:
        """Whether the way is free."""
        return self.status == TRUE


def passed(reason: str = Reason.RESOLVED, message: str = "") -> Check:
    """Return a check that holds."""
    return Check(TRUE, reason, message)


def failed(reason: str, message: str, *, permanent: bool = False) -> Check:
    """Return a check that does not hold."""
    return Check(FALSE, reason, message, permanent)


def unknown(reason: str, message: str) -> Check:
    """Return a check without an answer: never taken for either."""
    return Check(UNKNOWN, reason, message)
