"""Sampled responses with their scores, for people: some every few steps, and the last steps' worst when a run stops.

attempts/<n>/samples/step-<step>.jsonl   up to 16 responses of rank 0
attempts/<n>/last-steps.json             rows of the last three batches, and their worst responses
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_operator.api.algorithms import Reward
from rlhf_operator.api.base import Model

from .files import write_durably

SAMPLES_FOLDER, LAST_STEPS_FILE = "samples", "last-steps.json"
SAMPLED_ROWS, WORST_ROWS, KEPT_STEPS = 16, 8, 3


class ScoredText(Model):
    """One response and what the scorers say of it."""

    row: int
    """Number of the row in its source, from 1."""
    prompt: str
    response: str
    scores: dict[str, float | None]


class StepRows(Model):
    """What one step was made of."""

    step: int
    rows: list[int]
    """Of the whole batch, over all ranks."""
    worst: list[ScoredText]
    """Of rank 0's responses, those with the least reward before normalising, the worst first."""


class SampleLog:
    """What rank 0 keeps of the responses that it scored."""

    def __init__(self, folder: Path, every_steps: int, rewards: Sequence[Reward]) -> None:
        """folder: the attempt's own."""
        self._folder = folder
        self._every = every_steps
        self._weights = {reward.scorer: reward.weight for reward in rewards}
        self._last: deque[StepRows] = deque(maxlen=KEPT_STEPS)

    def saw(self, step: int, rows: Sequence[int], scored: Sequence[ScoredText]) -> None:
        """Note a step's batch; step 0, the reference's samples, is none."""
        if step < 1:
            return
        worst = sorted(scored, key=self._reward)[:WORST_ROWS]
        self._last.append(StepRows(step=step, rows=sorted(set(rows)), worst=worst))
        if step % self._every == 0:
            lines = [text.model_dump_json(by_alias=True) for text in scored[:SAMPLED_ROWS]]
            path = self._folder / SAMPLES_FOLDER / f"step-{step:08}.jsonl"
            path.parent.mkdir(exist_ok=True)
            write_durably(path, ("\n".join(lines) + "\n").encode())

    def leave(self) -> Path:
        """Write the last steps, for whoever asks why the run stopped."""
        found = [each.model_dump(mode="json", by_alias=True) for each in self._last]
        path = self._folder / LAST_STEPS_FILE
        write_durably(path, json.dumps(found, ensure_ascii=False, indent=1).encode())
        return path

    def _reward(self, text: ScoredText) -> float:
        return sum(weight * (text.scores.get(name) or 0.0) for name, weight in self._weights.items())


def scored_texts(
    rows: Sequence[tuple[int, str]], texts: Sequence[str], scores: Mapping[str, Sequence[float | None]]
) -> list[ScoredText]:
    """Join rows (number and prompt), responses and scores by scorer, all in the same order."""
    return [
        ScoredText(
            row=number,
            prompt=prompt,
            # Half a character at the end of a cut response is no Unicode.
            response=text.encode(errors="replace").decode(),
            scores={name: found[place] for name, found in scores.items()},
        )
        for place, ((number, prompt), text) in enumerate(zip(rows, texts, strict=True))
    ]
