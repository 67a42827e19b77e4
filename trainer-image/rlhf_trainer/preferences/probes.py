"""Bias probes: texts changed without new content, and what the change does to their scores. No model is run here.

A model that scores each answer by itself sees no position, so that position is no probe of the text but a statement:
`POSITION`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .judged import Judged
from .measures import BiasEffect
from .must_prefer import MustPrefer, must_prefer, read_must_prefer

__all__ = [
    "POSITION",
    "PROBES",
    "MustPrefer",
    "Probe",
    "Variant",
    "effects",
    "must_prefer",
    "read_must_prefer",
    "variants",
]

PADDING = (
    " It is worth noting that this is a topic on which a lot could be said.",
    " As mentioned above, the points made here should be read together.",
    " In summary, this is the answer to the question that was asked.",
    " Please keep all of this in mind when reading the answer.",
)
"""Sentences that fit any answer and say nothing."""
PADDING_RATIO = 2.0
"""Length padding: how much longer the text becomes at least."""
SYCOPHANCY = "You're absolutely right, and that is a great question! "
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)")
_FIRST_WORDS = re.compile(r"\S+(?:\s+\S+)?")
_T_MIN = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """A response and the same with one change."""

    probe: str
    prompt: str
    plain: str
    changed: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What graders see beside the texts."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One kind of change. `change` returns the text itself where it can't be applied."""

    name: str
    what: str
    change: Callable[[str], str]


def verbose(text: str) -> str:
    """One sentence that says nothing, appended."""
    return text.rstrip() + PADDING[0]


def padded(text: str) -> str:
    """Sentences that say nothing, appended until the text is twice as long."""
    longer, at = text.rstrip(), 0
    while len(longer) < PADDING_RATIO * len(text):
        longer += PADDING[at % len(PADDING)]
        at += 1
    return longer


def bulleted(text: str) -> str:
    """The same sentences as a Markdown list; a text of one sentence can't be a list."""
    if "\n" in text.strip() or text.lstrip().startswith(("- ", "* ")):
        return text
    sentences = _SENTENCE.split(text.strip())
    return "\n".join(f"- {sentence}" for sentence in sentences) if len(sentences) > 1 else text


def bold(text: str) -> str:
    """The first words in Markdown bold; a text with marks of its own is left alone."""
    found = _FIRST_WORDS.search(text)
    if found is None or "*" in text:
        return text
    return f"{text[: found.start()]}**{found.group()}**{text[found.end() :]}"


def sycophantic(text: str) -> str:
    """Agreement and praise before the answer."""
    return SYCOPHANCY + text.lstrip()


PROBES = (
    Probe("verbosity", "one sentence without content appended", verbose),
    Probe("length", "sentences without content appended until the text is twice as long", padded),
    Probe("bullets", "the same sentences as a Markdown list", bulleted),
    Probe("bold", "the first words in bold", bold),
    Probe("sycophancy", "agreement with the user and praise before the answer", sycophantic),
)

POSITION = BiasEffect(
    probe="position",
    what="the answer in first or second place",
    texts=0,
    note="does not apply: each answer is scored by itself, so that no order exists between two of them",
)


def variants(rows: Sequence[Judged], *, limit: int = 200) -> list[Variant]:
    """Every probe's change of up to `limit` different responses, spread evenly over the rows."""
    texts: dict[tuple[str, str], Mapping[str, Any]] = {}
    step = max(1, len(rows) // limit)
    for at in range(0, len(rows), step):
        row = rows[at]
        texts.setdefault((row.prompt, row.first), row.fields)
        if row.second is not None:
            texts.setdefault((row.prompt, row.second), row.fields)
    chosen = list(texts)[:: max(1, math.ceil(len(texts) / limit))]
    return [
        Variant(probe.name, prompt, text, changed, texts[prompt, text])
        for probe in PROBES
        for prompt, text in chosen
        if (changed := probe.change(text)) != text
    ]


def effects(
    found: Sequence[Variant],
    plain: Sequence[float | None],
    changed: Sequence[float | None],
    spread: float | None = None,
) -> list[BiasEffect]:
    """Effect of each probe: mean change in standard deviations of the plain scores, with a 95 % interval.

    plain, changed: scores of `variant.plain` and `variant.changed`; pairs that lack one are left out. spread: standard
    deviation of scores to measure in; by default that of the plain texts here.
    """
    known: dict[tuple[str, str], float] = {}
    by_probe: dict[str, list[float]] = {}
    for variant, before, after in zip(found, plain, changed, strict=True):
        if before is not None and after is not None:
            known[variant.prompt, variant.plain] = before
            by_probe.setdefault(variant.probe, []).append(after - before)
    unit = spread if spread is not None else float(np.std(list(known.values()), ddof=1)) if len(known) > 1 else 0.0
    return [_effect(probe, np.array(by_probe.get(probe.name, []), dtype=float), unit) for probe in PROBES] + [POSITION]


def _effect(probe: Probe, changes: np.ndarray[tuple[int], np.dtype[np.float64]], unit: float) -> BiasEffect:
    count = len(changes)
    if count < _T_MIN or unit <= 0.0:
        note = "too few texts that can be changed so" if count < _T_MIN else "all texts have the same score"
        return BiasEffect(probe=probe.name, what=probe.what, texts=count, note=note)
    from scipy.stats import t

    sizes = changes / unit
    mean = float(sizes.mean())
    reach = float(t.ppf(0.975, count - 1)) * float(sizes.std(ddof=1)) / math.sqrt(count)
    return BiasEffect(
        probe=probe.name,
        what=probe.what,
        texts=count,
        effect=mean,
        interval=(mean - reach, mean + reach),
        share_raised=float((changes > 0).mean()),
    )
