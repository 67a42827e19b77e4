"""A run on the user's own rows: what is in the file, the base model taught from it, and the job that goes with it."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from demo.basecache import cached_base
from demo.columns import USAGE, RowsError, choose, parse
from demo.recipe import Recipe
from demo.run import BASE, Run
from demo.voice import Voice
from rlhf_operator.api.shared import Columns, Format
from rlhf_trainer.data.reasons import Counter, Tally
from rlhf_trainer.data.rows import Row, Unusable, meaning
from rlhf_trainer.data.sources import Source
from rlhf_trainer.errors import ConfigError

JOB = "own-rows"
CLAIM = "quickstart"
RECIPE = Recipe(vocabulary=1024, max_tokens=128, batch=8, steps=320)
MAX_PROMPT_TOKENS = 160
MAX_RESPONSE_TOKENS = 48
MINIMUM_ROWS = 32
HELD_OUT_SHARE = 0.1
_LOOKED_AT = 200
"""Rows whose columns decide which columns there are."""


@dataclass(slots=True)
class Sorted:
    """The file's rows: usable ones, and how many are not and why."""

    train: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)
    rows: int = 0
    dropped: Counter = field(default_factory=Counter)


def read_columns(path: Path, given: str) -> Columns:
    """Which columns to use, by a look at the first rows. Raises RowsError."""
    wanted = parse(given)
    present: set[str] = set()
    for row in islice(_source(path).rows(), _LOOKED_AT):
        present |= set(row.value or ())
    if not present:
        raise RowsError(f"{path} holds no JSON object in its first {_LOOKED_AT} lines. {USAGE}")
    return choose(present, wanted)


def sort_rows(path: Path, columns: Columns) -> Sorted:
    """Read every row, as the trainer will; the prompts decide which rows are held out, so that none leaks."""
    found = Sorted()
    for source in _source(path).rows():
        found.rows += 1
        if source.value is None:
            if source.problem is not None:
                found.dropped.add(source.problem, source.number, source.detail)
            continue
        try:
            row = meaning(Format.DEMONSTRATIONS, columns, source.number, source.value)
        except Unusable as unusable:
            found.dropped.add(unusable.reason, source.number, unusable.detail)
            continue
        (found.held_out if is_held_out(row.prompt) else found.train).append(row)
    return found


def is_held_out(prompt: str) -> bool:
    """Whether the prompt is among the tenth that is only evaluated on: decided by its own text."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4]) / 2**32 < HELD_OUT_SHARE


def _source(path: Path) -> Source:
    if path.suffix not in (".jsonl", ".ndjson", ".json", ".parquet"):
        raise RowsError(f"DATA={path}: a file of JSON lines is needed, named .jsonl. {USAGE}")
    try:
        return Source(str(path.resolve()), f"DATA={path}")
    except (ConfigError, OSError) as error:
        raise RowsError(str(error)) from error


def told(tallies: dict[Any, Tally]) -> list[str]:
    """One line for each reason: how many rows, and the first of them."""
    return [
        f"dropped {tally.count}: {reason} (first: row {tally.examples[0].row}: {tally.examples[0].detail})"
        for reason, tally in tallies.items()
    ]


def word_bounds(answers: Sequence[str]) -> tuple[int, int]:
    """A quarter of the preferred answers is shorter than the first, a quarter longer than the second, in words."""
    lengths = sorted(len(text.split()) for text in answers)
    low, _, high = statistics.quantiles(lengths, n=4)
    return max(1, round(low)), max(2, round(high))


def manifests(columns: Columns, bounds: tuple[int, int]) -> list[dict[str, Any]]:
    """The claim and the RLHFJob."""
    shortest, longest = bounds
    reference = columns.model_dump(mode="json", by_alias=True, exclude_none=True)

    def rows(name: str) -> dict[str, Any]:
        return {"pvc": {"claimName": CLAIM, "path": f"rows/{name}"}, "format": "Prompts", "columns": reference}

    length = {"unit": "Words", "min": shortest, "max": longest, "slack": max(1, longest - shortest)}
    spec = {
        "baseModel": {"pvc": {"claimName": CLAIM, "path": BASE}},
        "dataset": rows("train.jsonl"),
        "scorers": [
            {"name": "overlap", "grader": {"overlap": {"metric": "ROUGE-L", "referenceColumn": "chosen"}}},
            {"name": "length", "grader": {"length": length}},
        ],
        "rewards": [{"scorer": "overlap", "weight": 2.0}, {"scorer": "length", "weight": 0.5}],
        "training": {"steps": 15, "batchSize": 32, "microBatchSize": 8, "seed": 17},
        "optimizer": {"learningRate": 2e-4, "warmupSteps": 2},
        "generation": {"maxPromptLength": MAX_PROMPT_TOKENS, "maxResponseLength": MAX_RESPONSE_TOKENS}
        | {"truncation": {"mode": "Score"}},
        "ppo": {
            "epochs": 2,
            "miniBatches": 2,
            "kl": {"coefficient": 0.03, "controller": "Adaptive", "target": 8, "horizon": 2000},
        },
        "compute": {
            "workers": 2,
            "zeroStage": 2,
            "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
            "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        },
        "storage": {"claimName": CLAIM},
        "output": {"pvc": {"claimName": CLAIM, "path": "own-rows-artifact"}},
        "checkpoints": {"everySteps": 5, "keep": 2, "gracePeriod": "1m"},
        "guards": [{"name": "kl", "kl": {"max": 60}, "patience": 3, "action": "Stop"}],
        "evaluation": {
            "dataset": rows("evaluation.jsonl"),
            "scorers": ["overlap"],
            # Both scorers are optimised: the figures show that the run learnt, not that it is any good.
            "allowTrainingScorer": True,
        },
        "timeouts": {"startup": "15m", "progress": "15m"},
        "maxRestarts": 2,
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "2Gi"}}},
    }
    job = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": JOB}, "spec": spec}
    return [claim, job]


def write_rows(rows: Sequence[Row], path: Path, columns: Columns) -> None:
    """JSON lines with the columns that are used, as they were in the file."""
    names = used_columns(columns)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row.fields[name] for name in names if name in row.fields}) + "\n")


def used_columns(columns: Columns) -> list[str]:
    """Every column of the source that has a meaning."""
    prompt = [columns.prompt] if isinstance(columns.prompt, str) else list(columns.prompt)
    single = [name for name in (columns.chosen, columns.rejected, columns.label) if name]
    return [*prompt, *single, *(columns.responses or ()), *(columns.annotators or ())]


def prepare(path: Path, given: str, build: Path, voice: Voice) -> Run:
    """Read the file, teach a base model from it, and write the manifests. Raises RowsError."""
    voice.step(f"your rows: {path}")
    columns = read_columns(path, given)
    found = sort_rows(path, columns)
    usable = len(found.train) + len(found.held_out)
    voice.say(f"columns: {json.dumps(columns.model_dump(mode='json', by_alias=True, exclude_none=True))}")
    for line in told(found.dropped.tallies()):
        voice.say(line)
    voice.say(f"{found.rows} rows, {usable} usable: {len(found.train)} to train, {len(found.held_out)} held out")
    if len(found.train) < MINIMUM_ROWS or not found.held_out:
        raise RowsError(
            f"{path}: {usable} of {found.rows} rows are usable, too few to train and evaluate on "
            f"(at least {MINIMUM_ROWS} and some prompts to hold out). {USAGE}"
        )
    bounds = word_bounds([row.response or "" for row in found.train])

    voice.step("a small base model, taught the preferred answers")
    base = cached_base([(row.prompt, row.response or "") for row in found.train], build, RECIPE, voice)

    folder = build / JOB
    rows = folder / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    write_rows(found.train, rows / "train.jsonl", columns)
    write_rows(found.held_out, rows / "evaluation.jsonl", columns)
    manifest = folder / "rlhfjob.yaml"
    manifest.write_text(yaml.safe_dump_all(manifests(columns, bounds), sort_keys=False), encoding="utf-8")
    return Run(
        job=JOB,
        claim=CLAIM,
        artifact="own-rows-artifact",
        manifests=[manifest],
        base=base,
        reward=f"2 x ROUGE-L overlap with the preferred answer + 0.5 x a length of {bounds[0]} to {bounds[1]} words",
        prompts=list(dict.fromkeys(row.prompt for row in found.held_out)),
        max_tokens=MAX_RESPONSE_TOKENS,
        uploads={"rows": rows},
    )
