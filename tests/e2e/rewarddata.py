"""Judged pairs that a tiny model learns in seconds, their spoilt kin, and the texts that clients score. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.core.tiny import WORDS

GOOD, BAD = ("thanks", "help", "yes"), ("refund", "late", "bad")
"""What makes an answer good or bad: of the same lengths, so that length says nothing."""
PLAIN = tuple(word for word in WORDS if word not in GOOD + BAD)
COUNT = 200
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
_FIRST, _SECOND, _TIE = 1, 2, 0


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer that is better than another."""

    prompt: str
    chosen: str
    rejected: str


def honest(count: int = COUNT, seed: int = 5) -> list[Pair]:
    """One good word against one bad word, among as many plain ones."""
    draw = random.Random(seed)
    return [Pair(prompt, _answer(draw, GOOD, 3), _answer(draw, BAD, 3)) for prompt in _prompts(count)]


def shuffled(pairs: Sequence[Pair], seed: int = 6) -> list[Pair]:
    """The same answers with their labels drawn anew: there is nothing to learn."""
    draw = random.Random(seed)
    return [pair if draw.random() < 0.5 else Pair(pair.prompt, pair.rejected, pair.chosen) for pair in pairs]


def length_sorted(pairs: Sequence[Pair], seed: int = 7) -> list[Pair]:
    """The same prompts, the longer of two plain answers always preferred."""
    draw = random.Random(seed)
    return [
        Pair(pair.prompt, _words(draw, 6 + draw.randrange(4)), _words(draw, 1 + draw.randrange(3))) for pair in pairs
    ]


def rows(pairs: Iterable[Pair], error_rate: float = 0.1, seed: int = 8) -> list[dict[str, Any]]:
    """As three annotators judged them, each wrong in so many cases and undecided in half as many; sides are drawn."""
    draw = random.Random(seed)
    found = []
    for pair in pairs:
        better = draw.choice((_FIRST, _SECOND))
        one, other = (pair.chosen, pair.rejected) if better == _FIRST else (pair.rejected, pair.chosen)
        row: dict[str, Any] = {"prompt": pair.prompt, "response1": one, "response2": other}
        for name in ANNOTATORS:
            chance = draw.random()
            wrong = _SECOND if better == _FIRST else _FIRST
            row[name] = wrong if chance < error_rate else _TIE if chance < 1.5 * error_rate else better
        found.append(row)
    return found


def texts(count: int = 24, seed: int = 9) -> list[tuple[str, str]]:
    """Prompts and responses that no data set has: what clients score."""
    draw = random.Random(seed)
    return [(_words(draw, 4), _answer(draw, GOOD + BAD, 1 + draw.randrange(6))) for _ in range(count)]


def write_rows(path: Path, found: Iterable[dict[str, Any]]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")


def _prompts(count: int) -> list[str]:
    every = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS if len({a, b, c}) == 3]
    return random.Random(4).sample(every, count)


def _answer(draw: random.Random, marks: Sequence[str], words: int) -> str:
    text = [draw.choice(PLAIN) for _ in range(words)]
    text.insert(draw.randrange(words + 1), draw.choice(marks))
    return " ".join(text)


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(PLAIN) for _ in range(count))
