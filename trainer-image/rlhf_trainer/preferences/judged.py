"""The record that everything after preparation works on: one judged pair of responses, or one judged response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Judged:
    """Two responses to one prompt and how sure it is that the first is better; or one response and whether it is good.

    A lone response (`second` None) is compared with a score of 0: Δ = score(first) − 0.
    """

    row: int
    """Number of the row in its source, from 1; of a pair made of two rows, the lower one."""
    prompt: str
    first: str
    second: str | None
    p_first: float
    """Soft label, 0–1: probability that `first` is the better one; of a lone response, that it is good."""
    tie: bool
    """No winner: trained on softly where ties are kept, never judged for accuracy."""
    weight: float
    """Weight in the loss; the comparisons of one row share the row's weight."""
    dimension: str
    group: int
    """Number of its prompt group: what stays on one side of every split, and what a bootstrap draws."""
    slices: dict[str, str] = field(default_factory=dict)
    """Column → value, for figures on parts of the data."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What graders see beside the texts (of a pair made of two rows, the first text's row); empty for a model."""
