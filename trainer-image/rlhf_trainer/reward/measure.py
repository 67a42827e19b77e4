"""Raw scores of judged pairs: by every rank its share, kept in the workspace: a resume measures nothing twice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import Digest
from rlhf_scoring.graded import GradedScorer
from rlhf_scoring.judge import ROW_NUMBER
from rlhf_scoring.judge import Row as Fields
from rlhf_scoring.reward_model import RewardScorer
from rlhf_trainer.distributed import Group
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.preferences.judged import Judged

Row = list[float | None]
"""Raw scores of one text by dimension; None where there is none."""


class TextScorer(Protocol):
    """What gives raw scores."""

    def raw(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Fields]) -> list[Row]:
        """Raw scores by text and dimension; rows: what graders see of the texts' rows beside them."""
        ...


class ModelScorer:
    """A model's logits."""

    def __init__(self, scorer: RewardScorer, beat: Callable[[], None]) -> None:
        self.scorer = scorer
        self._beat = beat

    def raw(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Fields]) -> list[Row]:
        """Logits, uncalibrated."""
        return [list(row) for row in self.scorer.logits(prompts, responses, self._beat)]


class GraderScorer:
    """Graders' scores; they have no temperature."""

    def __init__(self, scorer: GradedScorer) -> None:
        self._scorer = scorer

    def raw(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Fields]) -> list[Row]:
        """Weighted means by dimension."""
        seen = [{"prompt": prompt, **row} for prompt, row in zip(prompts, rows, strict=True)]
        found = self._scorer.scores(prompts, responses, seen)
        return [[scores.dimensions[name] for name in self._scorer.dimensions] for scores in found]


class PairScores(Model):
    """Raw scores of judged rows, in their order."""

    first: list[Row]
    second: list[Row | None]
    """None: a response judged alone."""


class RoundScores(Model):
    """What one round of training and measuring left; a file of the workspace."""

    plan_digest: Digest
    name: str
    calibration: PairScores
    held_out: PairScores
    plain: list[Row]
    changed: list[Row]
    """Of the bias probes' texts; in the first round only, else empty."""
    engine: str


def score_texts(
    scorer: TextScorer, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Fields], group: Group
) -> list[Row]:
    """Raw scores of texts on every rank; each rank scores its part."""
    mine = slice(group.rank * len(prompts) // group.world_size, (group.rank + 1) * len(prompts) // group.world_size)
    found = scorer.raw(prompts[mine], responses[mine], rows[mine]) if len(prompts[mine]) else []
    return group.gather_list(found, "the gathering of scores")


def score_pairs(scorer: TextScorer, rows: Sequence[Judged], group: Group) -> PairScores:
    """Raw scores of both texts of every row."""
    taken = [rows[at] for at in range(len(rows))]
    pairs = [(row, row.first) for row in taken] + [(row, row.second) for row in taken if row.second is not None]
    fields = [{ROW_NUMBER: row.row, **row.fields} for row, _ in pairs]
    scores = score_texts(scorer, [row.prompt for row, _ in pairs], [text for _, text in pairs], fields, group)
    seconds = iter(scores[len(taken) :])
    return PairScores(
        first=scores[: len(taken)], second=[None if row.second is None else next(seconds) for row in taken]
    )


def scores_file(name: str) -> str:
    """The file of a round's scores, at the root of the workspace."""
    return f"scores-{name}.json"


def read_round(workspace: Workspace, name: str, plan_digest: str) -> RoundScores | None:
    """What a former attempt measured; None when it has to be done, again if the file is no whole one."""
    path: Path = workspace.root / scores_file(name)
    try:
        found = RoundScores.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.plan_digest == plan_digest else None


def store_round(workspace: Workspace, found: RoundScores) -> None:
    """Keep a round's scores for later attempts."""
    workspace.publish(scores_file(found.name), found.model_dump_json(by_alias=True).encode())
