"""A version's folder: what lies in it beside the weights, and how a taken model or graders get there."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from rlhf_operator.api.rewardplan import PlanWeightedGrader, RewardPlan
from rlhf_operator.api.scorerfile import PROBE_TOLERANCE, SCORER_FILE, ScorerFile, ScorerKind
from rlhf_scoring.artifact import plain_files
from rlhf_scoring.encode import INPUT_FORMAT_FILE, store_input_format
from rlhf_scoring.errors import ArtifactError
from rlhf_scoring.reward_model import RewardScorer
from rlhf_scoring.version import load_scorer_file
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.files import digest_file, write_durably

GRADERS_FOLDER = "graders"
_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".onnx", ".py")
"""Files of a taken model that are left behind: pickles and other frameworks' weights, and code."""


HALF_PRECISION_TOLERANCE = 0.05
"""Of weights with 8 or 11 bits: engines order their sums differently, and each order rounds otherwise."""


def model_file(folder: Path, dimensions: list[str], temperatures: list[float]) -> ScorerFile:
    """scorer.json of a model."""
    config = json.loads((folder / "config.json").read_text())
    half = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.") != "float32"
    return ScorerFile(
        kind=ScorerKind.MODEL,
        dimensions=dimensions,
        temperatures=temperatures,
        probe_tolerance=HALF_PRECISION_TOLERANCE if half else PROBE_TOLERANCE,
    )


def fresh(folder: Path) -> Path:
    """An empty folder in place of what an interrupted try left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_scorer_file(folder: Path, file: ScorerFile) -> None:
    """Write scorer.json."""
    data = file.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
    write_durably(folder / SCORER_FILE, data.encode())


def take_model(plan: RewardPlan, source: Path, folder: Path) -> RewardScorer:
    """Copy an existing model into a version's folder and load it. Raises ConfigError when it is not what is asked for.

    Temperatures that came with it are kept where nothing is measured anew.
    """
    try:
        files = plain_files(source)
    except (ArtifactError, OSError) as error:
        raise ConfigError(f"source.model: {error}", reason="ModelUnreadable") from error
    for path in files:
        if path.suffix not in _WEIGHTS:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    scorer = RewardScorer(plan.name, folder)
    if list(scorer.dimensions) != plan.dimensions and len(scorer.dimensions) == len(plan.dimensions) == 1:
        # The only head needs no name of its own: it takes the one that is asked for.
        scorer.close()
        rename_head(folder, plan.dimensions[0])
        scorer = RewardScorer(plan.name, folder)
    if list(scorer.dimensions) != plan.dimensions:
        raise ConfigError(
            f"source.model: the model's heads are {', '.join(scorer.dimensions)} (id2label in config.json), but "
            f"dimensions are {', '.join(plan.dimensions)}: name the same, in the same order",
            reason="Dimensions",
        )
    if not (folder / INPUT_FORMAT_FILE).is_file():
        store_input_format(folder, scorer.input_format)
    return scorer


def rename_head(folder: Path, name: str) -> None:
    """Give the only head of a model a name."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"id2label": {"0": name}, "label2id": {name: 0}}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / SCORER_FILE).unlink(missing_ok=True)


def stored_temperatures(folder: Path, dimensions: Sequence[str]) -> list[float]:
    """The temperatures that a taken model came with, else 1."""
    stored = load_scorer_file(folder)
    return list(stored.temperatures) if stored is not None else [1.0] * len(dimensions)


def take_graders(plan: RewardPlan, folder: Path) -> ScorerFile:
    """Copy the graders' code into a version's folder; returns scorer.json's content, with paths inside the version."""
    placed = []
    for each in plan.graders:
        scorer = each.scorer
        if scorer.grader_path is not None:
            source = Path(scorer.grader_path)
            if scorer.grader_digest is not None and digest_file(source) != scorer.grader_digest:
                raise ConfigError(
                    f"source.graders[{scorer.name}]: its ConfigMap changed since the version was planned; apply again",
                    reason="GraderChanged",
                )
            inside = f"/{GRADERS_FOLDER}/{scorer.name}.py"
            (folder / GRADERS_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(source, folder / inside.lstrip("/"))
            scorer = scorer.model_copy(update={"grader_path": inside})
        placed.append(PlanWeightedGrader(dimension=each.dimension, weight=each.weight, scorer=scorer))
    return ScorerFile(kind=ScorerKind.GRADERS, dimensions=plan.dimensions, graders=placed)
