"""A RewardModel made of graders: weighted means per dimension. The graders themselves are in graders/."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.rewardplan import PlanWeightedGrader
from rlhf_operator.api.scorerfile import SCORER_FILE, TOTAL, ScorerKind

from .errors import ScorerConfigError
from .judge import Judgement, Missing, Row, digest_of, version_digest
from .scorers import Scorers
from .tree import digest_tree
from .version import load_scorer_file, weighted_mean


@dataclass(frozen=True, slots=True)
class GradedScores:
    """Scores of one text; None where a grader gave none."""

    dimensions: dict[str, float | None]
    total: float | None
    """Mean over dimensions; None as soon as one is missing."""

    def of(self, name: str) -> float | None:
        """The score of one dimension, or the total."""
        return self.total if name == TOTAL and name not in self.dimensions else self.dimensions[name]


class GradedScorer:
    """Scores by graders that were built under their own names."""

    def __init__(self, graders: Sequence[PlanWeightedGrader], dimensions: Sequence[str], scorers: Scorers) -> None:
        self._graders = list(graders)
        self._scorers = scorers
        self.dimensions = tuple(dimensions)

    def scores(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[GradedScores]:
        """Score every response in every dimension."""
        found = {
            each.scorer.name: self._scorers.score(each.scorer.name, prompts, responses, rows) for each in self._graders
        }
        return [self._combined({name: scores[at] for name, scores in found.items()}) for at in range(len(responses))]

    def missing(self) -> str:
        """Why the last text without a score has none; empty while every text has one."""
        words = [self._scorers.timing(each.scorer.name).last_missing for each in self._graders]
        return next((word for word in words if word), "")

    def _combined(self, scores: dict[str, float | None]) -> GradedScores:
        dimensions = {
            name: weighted_mean(
                (each.weight, scores[each.scorer.name]) for each in self._graders if each.dimension == name
            )
            for name in self.dimensions
        }
        return GradedScores(dimensions, weighted_mean((1.0, score) for score in dimensions.values()))


class GradedRewardModel:
    """A judge that gives one dimension of a RewardModel made of graders, or the mean over them."""

    def __init__(self, scorer: str, directory: Path, dimension: str, version: str | None, graded: GradedScorer) -> None:
        """Raises ScorerConfigError for a dimension that the RewardModel has not."""
        if dimension != TOTAL and dimension not in graded.dimensions:
            names = ", ".join(graded.dimensions)
            raise ScorerConfigError(scorer, f"the reward model has no dimension {dimension!r}; it has {names}")
        self._graded = graded
        self._dimension = dimension
        self.digest = (
            version_digest(version, dimension)
            if version
            else digest_of("reward-model-graders/1", digest_tree(directory), dimension)
        )

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Score every response."""
        found = [scores.of(self._dimension) for scores in self._graded.scores(prompts, responses, rows)]
        return [Missing(self._graded.missing() or "a grader gave no score") if each is None else each for each in found]

    def close(self) -> None:
        """Nothing is held: the graders are the scorers'."""


@dataclass(frozen=True, slots=True)
class StoredGraders:
    """The graders of a version, with the paths of their code."""

    directory: Path
    graders: list[PlanWeightedGrader]
    dimensions: list[str]

    @classmethod
    def find(cls, directory: Path) -> "StoredGraders | None":
        """The graders of a version; None when it is a model's. Raises ValueError for one that can't be used."""
        stored = load_scorer_file(directory)
        if stored is None or stored.kind is not ScorerKind.GRADERS:
            return None
        placed = [each.model_copy(update={"scorer": _placed(each.scorer, directory)}) for each in stored.graders]
        return cls(directory, placed, stored.dimensions)

    def judge(self, scorer: PlanScorer, built: Scorers) -> GradedRewardModel:
        """The judge that a plan's scorer asks for. Raises ScorerConfigError."""
        model = scorer.reward_model
        assert model is not None
        graded = GradedScorer(self.graders, self.dimensions, built)
        return GradedRewardModel(scorer.name, self.directory, model.dimension, model.version, graded)


def _placed(scorer: PlanScorer, directory: Path) -> PlanScorer:
    """In scorer.json a grader's code is named from the version's own root."""
    if scorer.grader_path is None:
        return scorer
    path = directory / scorer.grader_path.lstrip("/")
    if ".." in path.parts or not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{SCORER_FILE}: the code of grader {scorer.name} lies outside of the version")
    return scorer.model_copy(update={"grader_path": str(path)})
