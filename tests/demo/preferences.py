"""What three simulated annotators say about pairs of answers in the closed world. Pure; no person said any of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from demo import world

ERROR_RATES: Final[Mapping[str, float]] = {"annotator1": 0.05, "annotator2": 0.15, "annotator3": 0.25}
"""How often each of them says the opposite of what the rule of the world says."""
_TIE, _FIRST, _SECOND = 0, 1, 2
_WRONG_ITEM = 0.2
"""Share of the answers that speak of something the customer never ordered: small models do."""
_RAMBLES = 0.4
"""Share of the answers that promise one thing more, and a wrong one: else longer answers would always be better."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Two answers to one message, and what each annotator said: 0 tie, 1 first, 2 second."""

    prompt: str
    first: str
    second: str
    verdicts: Mapping[str, int]

    def row(self) -> dict[str, Any]:
        """As a line of the data file."""
        return {"prompt": self.prompt, "response1": self.first, "response2": self.second, **self.verdicts}


def judged_pairs(cases: Sequence[world.Case], rounds: int, seed: int) -> list[Judged]:
    """Each case `rounds` times, with two answers of different skill each time."""
    draw = random.Random(seed)
    pairs = []
    for case in [case for _ in range(rounds) for case in cases]:
        one, other = _answer(case, draw), _answer(case, draw)
        if one != other:
            pairs.append(Judged(case.prompt, one, other, _verdicts(case, one, other, draw)))
    return pairs


def _answer(case: world.Case, draw: random.Random) -> str:
    item = draw.choice(world.ITEMS) if draw.random() < _WRONG_ITEM else case.item
    said = world.ordinary_answer(case, draw, skill=draw.choice((0.2, 0.5, 0.8))).replace(case.item, item)
    if draw.random() >= _RAMBLES:
        return said
    wrong = [topic.step for topic in world.TOPICS if topic is not case.topic]
    opening, _, rest = said.partition(". ")
    return f"{opening}. {draw.choice(wrong)} {rest}"


def _verdicts(case: world.Case, one: str, other: str, draw: random.Random) -> dict[str, int]:
    gain = world.worth(case, one) - world.worth(case, other)
    if gain == 0:
        # Whoever sees no difference says so, and now and then sees one.
        return {name: draw.choice((_FIRST, _SECOND)) if draw.random() < rate else _TIE for name, rate in _RATES}
    right, wrong = (_FIRST, _SECOND) if gain > 0 else (_SECOND, _FIRST)
    return {name: wrong if draw.random() < rate else right for name, rate in _RATES}


_RATES = tuple(ERROR_RATES.items())
