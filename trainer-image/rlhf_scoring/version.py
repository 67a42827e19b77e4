"""A RewardModel version's files: how raw outputs become calibrated scores. Pure; who runs the model is elsewhere."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_operator.api.scorerfile import PROBES_FILE, SCORER_FILE, TOTAL, Probe, ScorerFile, ScorerKind

CONFIG_FILE = "config.json"
_FILE_BYTES = 4 * 1024 * 1024
_PROBE_BYTES = 4 * 1024 * 1024
_PROBES = 1024


@dataclass(frozen=True, slots=True)
class Scores:
    """Calibrated scores of one text."""

    dimensions: dict[str, float]
    total: float
    """Mean over dimensions."""

    def of(self, name: str) -> float:
        """The score of one dimension, or the total."""
        return self.total if name == TOTAL and name not in self.dimensions else self.dimensions[name]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a model's logits into scores: one head and one temperature per dimension."""

    dimensions: tuple[str, ...]
    temperatures: tuple[float, ...]

    def scores(self, logits: Sequence[float]) -> Scores:
        """Raw logits, one per dimension in order, to scores."""
        found = {
            name: float(logit) / temperature
            for name, logit, temperature in zip(self.dimensions, logits, self.temperatures, strict=True)
        }
        return Scores(found, total(found))


def total(dimensions: dict[str, float]) -> float:
    """What a consumer that names no dimension gets: the mean over dimensions."""
    return sum(dimensions.values()) / len(dimensions)


def load_scorer_file(directory: Path) -> ScorerFile | None:
    """scorer.json of a version; None for a directory that has none. Raises ValueError for one that can't be used."""
    path = directory / SCORER_FILE
    if not path.is_file():
        return None
    try:
        found = ScorerFile.model_validate_json(_read(path, _FILE_BYTES))
    except ValidationError as error:
        raise ValueError(f"{SCORER_FILE} is not a scorer file: {error.errors()[0]['msg']}") from error
    if found.kind is ScorerKind.MODEL and len(found.temperatures) != len(found.dimensions):
        raise ValueError(f"{SCORER_FILE} has {len(found.temperatures)} temperatures for {len(found.dimensions)} heads")
    if found.kind is ScorerKind.GRADERS and not found.graders:
        raise ValueError(f"{SCORER_FILE} names no graders")
    if any(not 0 < temperature < float("inf") for temperature in found.temperatures):
        raise ValueError(f"{SCORER_FILE}: a temperature must be a positive number")
    return found


def load_probes(directory: Path) -> list[Probe]:
    """probes.jsonl of a version. Raises ValueError when it can't be read."""
    path = directory / PROBES_FILE
    found: list[Probe] = []
    try:
        with path.open("rb") as file:
            while line := file.readline(_PROBE_BYTES + 1):
                if len(line) > _PROBE_BYTES or len(found) >= _PROBES:
                    raise ValueError(f"{PROBES_FILE} is larger than {_PROBES} lines of {_PROBE_BYTES} bytes")
                found.append(Probe.model_validate_json(line))
    except (OSError, ValidationError) as error:
        raise ValueError(f"{PROBES_FILE} can't be read: {str(error).splitlines()[0]}") from error
    return found


def heads_of(config: Any) -> tuple[str, ...]:
    """The names of a sequence-classification model's heads, in order."""
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    return tuple(labels[index] for index in sorted(labels))


def calibration_of(directory: Path, config: Any) -> Calibration:
    """The calibration stored with a model; one that came without has temperature 1.

    Raises ValueError when scorer.json speaks of other heads than the model has.
    """
    heads = heads_of(config)
    stored = load_scorer_file(directory)
    if stored is None:
        return Calibration(heads, (1.0,) * len(heads))
    if stored.kind is not ScorerKind.MODEL:
        raise ValueError(f"{SCORER_FILE} is of graders, but {CONFIG_FILE} is of a model")
    if tuple(stored.dimensions) != heads:
        raise ValueError(f"{SCORER_FILE} has dimensions {stored.dimensions}, but the model's heads are {list(heads)}")
    return Calibration(heads, tuple(stored.temperatures))


def check_model_files(directory: Path) -> None:
    """Refuse a model directory that asks for code of its own or has no safetensors. Raises ValueError."""
    path = directory / CONFIG_FILE
    try:
        config = json.loads(_read(path, _FILE_BYTES))
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} can't be read: it is not JSON ({error})") from error
    if not isinstance(config, dict) or "auto_map" in config:
        raise ValueError(f"{path} asks for code of its own (auto_map), which is never run: remove it")


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return data


def weighted_mean(scores: Iterator[tuple[float, float | None]]) -> float | None:
    """Mean of (weight, score); None as soon as one score is missing: a partial mean is another scale."""
    weights, summed = 0.0, 0.0
    for weight, score in scores:
        if score is None:
            return None
        weights += weight
        summed += weight * score
    return summed / weights if weights else None
