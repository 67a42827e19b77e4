"""From raw scores to a version's figures: temperatures, statistics by dimension, bias, edge cases, the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_scoring.judge import Row as Fields
from rlhf_trainer.preferences.calibration import Temperature, fit_temperature
from rlhf_trainer.preferences.evaluate import evaluate as judge_dimension
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.preferences.measures import BiasEffect, DimensionReport, MustPreferReport
from rlhf_trainer.preferences.prepare import Parts
from rlhf_trainer.preferences.probes import Variant, effects, must_prefer, read_must_prefer, variants

from .measure import PairScores, RoundScores, Row

Ask = Callable[[Sequence[str], Sequence[str], Sequence[Fields]], list[Row]]
"""Raw scores of prompts and responses, with what graders see beside them, by the version itself."""


class Round(NamedTuple):
    """Rows that were measured, and what was measured."""

    parts: Parts
    scores: RoundScores


@dataclass(frozen=True)
class Measured:
    """All that the figures are made of."""

    plan: RewardPlan
    rounds: list[Round]
    temperatures: list[Temperature]
    """Of the version, by dimension."""
    slice_min_samples: int
    seed: int

    def dimension(self, place: int, ask: Ask) -> DimensionReport:
        """The figures of one dimension over the held-out rows of all rounds."""
        name = self.plan.dimensions[place]
        rows: list[Judged] = []
        first: list[float | None] = []
        second: list[float | None] = []
        temperatures = []
        for parts, scores in self.rounds:
            temperature = fit(parts.calibration, scores.calibration, name, place)
            temperatures.append(temperature)
            found = _of_dimension(parts.held_out, scores.held_out, name, place)
            rows += found.rows
            first += [_over(value, temperature) for value in found.first]
            second += [_over(value, temperature) for value in found.second]
        report = judge_dimension(
            name,
            rows,
            first,
            second,
            temperatures=temperatures,
            slice_min_samples=self.slice_min_samples,
            seed=self.seed,
        )
        changes: dict[str, object] = {}
        if self.rounds and self.rounds[0].scores.plain:
            changes["biases"] = self._biases(place, temperatures[0])
        if self.plan.evaluation.must_prefer is not None:
            changes["must_prefer"] = self._must_prefer(place, ask)
        return report.model_copy(update=changes) if changes else report

    def _biases(self, place: int, temperature: Temperature) -> tuple[BiasEffect, ...]:
        parts, scores = self.rounds[0]
        found: list[Variant] = []
        plain: list[float] = []
        changed: list[float] = []
        for variant, before, after in zip(bias_texts(parts), scores.plain, scores.changed, strict=True):
            one, other = _over(before[place], temperature), _over(after[place], temperature)
            if one is not None and other is not None:
                found.append(variant)
                plain.append(one)
                changed.append(other)
        return tuple(effects(found, plain, changed))

    def _must_prefer(self, place: int, ask: Ask) -> MustPreferReport:
        source = self.plan.evaluation.must_prefer
        assert source is not None
        pairs = read_must_prefer(source)
        prompts, fields = [pair.prompt for pair in pairs], [pair.fields for pair in pairs]
        temperature = self.temperatures[place] if self.temperatures else None
        chosen, rejected = (
            [_over(row[place], temperature) for row in ask(prompts, texts, fields)]
            for texts in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
        )
        return must_prefer(pairs, chosen, rejected)


def bias_texts(parts: Parts) -> list[Variant]:
    """Held-out texts and what they become when only a habit is changed."""
    return variants(parts.held_out)


class _Scored(NamedTuple):
    rows: list[Judged]
    first: list[float | None]
    second: list[float | None]


def fit(rows: Sequence[Judged], scores: PairScores, name: str, place: int) -> Temperature:
    """The temperature of one dimension, fitted on calibration rows."""
    found = _of_dimension(rows, scores, name, place)
    known = [at for at, value in enumerate(found.first) if value is not None]
    return fit_temperature(
        [found.rows[at] for at in known],
        [_known(found.first[at], 0.0) for at in known],
        [found.second[at] for at in known],
    )


def _of_dimension(rows: Sequence[Judged], scores: PairScores, name: str, place: int) -> _Scored:
    taken = [(rows[at], scores.first[at], scores.second[at]) for at in range(len(rows))]
    mine = [
        (row, one[place], None if other is None else other[place]) for row, one, other in taken if row.dimension == name
    ]
    # A pair with one score only can't be compared: as a whole it is missing.
    return _Scored(
        [row for row, _, _ in mine],
        [None if row.second is not None and other is None else one for row, one, other in mine],
        [other for _, _, other in mine],
    )


def _over(value: float | None, temperature: Temperature | None) -> float | None:
    return value if value is None or temperature is None else value / temperature.value


def _known(value: float | None, instead: float) -> float:
    return instead if value is None else value
