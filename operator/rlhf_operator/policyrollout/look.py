"""One look at a PolicyRollout: what decides (views.Observed), and what rendering and measuring need beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.measurements import Round
from rlhf_operator.runs.views import RewardModelView

from .judging import JudgePods
from .metrics import InForce
from .rounds import Ask, Step
from .views import Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Everything that was read."""

    observed: Observed
    metrics: InForce = field(default_factory=InForce)
    models: Mapping[str, RewardModelView] = field(default_factory=dict)
    """RewardModels of the namespace that the analysis names, or that judge."""
    step: Step | None = None
    """The step under way once its clock runs."""
    ask: Ask | None = None
    """The queries of a round that was due."""
    found: Round | None = None
    """What they came back with."""
    judge: JudgePods | None = None
    """The judge's pods as they are on record."""
    judge_refused: str | None = None
    """Why the API server refuses the judge's pods that are not on record; empty: it takes them; None: not asked."""
    keys: Manifest | None = None
    """The Secret of the rollout's keys, to be created; None: it is there."""
    orphans: tuple[Manifest, ...] = ()
    """Records of revisions that an orphaning deletion has left, to be taken over."""
    scaled: frozenset[str] = frozenset()
    """Revisions with a ScaledObject."""
