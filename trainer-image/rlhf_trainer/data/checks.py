"""Rows held against other rows: duplicates, contradictions, what is in the evaluation set, near repetitions."""

from collections.abc import Mapping

from rlhf_operator.api.shared import Format

from .reasons import EXAMPLES_KEPT, Counter, DropReason, Example, Tally, example
from .rows import Row
from .similarity import NearIndex, key, near_to, shingles_of, signatures
from .store import Prepared

NEAR_DUPLICATE_ROWS = 20_000
"""Rows that are looked at for near duplicates: the index holds some kilobytes for each."""

JUDGED = (Format.PAIRS, Format.BINARY)
"""Formats whose rows say which response is good; the opposite is the same row with its responses turned round."""

Problem = tuple[DropReason, int, str]


class Checks:
    """Everything that one data set's rows are held against beside themselves."""

    def __init__(self, wanted: Format, held_out: Mapping[str, Prepared]) -> None:
        self.index = RowIndex(wanted)
        self.held_out = HeldOut(held_out)
        self.near_duplicates = NearDuplicates()

    def standing(self, rows: list[Row], counter: Counter) -> list[Row]:
        """The rows that neither repeat nor contradict another, and are not held out; the others are counted."""
        kept = []
        for row in rows:
            problem = self.index.problem(row) or self.held_out.exact(row)
            if problem is not None:
                counter.add(*problem)
            else:
                kept.append(row)
        return self.held_out.without_near(kept, counter)


class RowIndex:
    """What the rows of one data set say about each other: duplicates and contradictions."""

    def __init__(self, wanted: Format) -> None:
        self._format = wanted
        self._first: dict[bytes, int] = {}
        self._answers: dict[bytes, bytes] = {}
        self._contradicted: dict[bytes, int] = {}

    def note(self, row: Row) -> None:
        """Remember one row; every row is noted before the first is asked about."""
        own = self._own(row)
        self._first.setdefault(own, row.number)
        if self._format in JUDGED:
            turned = key(row.prompt, row.rejected, row.chosen)
            if turned in self._first:
                self._contradicted.setdefault(own, self._first[turned])
                self._contradicted.setdefault(turned, row.number)
        elif row.answer is not None:
            prompt, answer = key(row.prompt), key(row.answer)
            if self._answers.setdefault(prompt, answer) != answer:
                self._contradicted.setdefault(prompt, row.number)

    def problem(self, row: Row) -> Problem | None:
        """Why a row does not stand beside the others."""
        own = self._own(row)
        contradicted = self._contradicted.get(own if self._format in JUDGED else key(row.prompt))
        if contradicted is not None:
            return DropReason.CONTRADICTION, row.number, f"row {contradicted} says otherwise for the same prompt"
        first = self._first[own]
        if first != row.number:
            return DropReason.DUPLICATE, row.number, f"the same as row {first}"
        return None

    def _own(self, row: Row) -> bytes:
        if self._format in JUDGED:
            return key(row.prompt, row.chosen, row.rejected)
        if self._format is Format.DEMONSTRATIONS:
            return key(row.prompt, row.response)
        return key(row.prompt)


class HeldOut:
    """The prompts of evaluation and suites, which must not be trained on: a gate on known questions says nothing."""

    def __init__(self, sets: Mapping[str, Prepared]) -> None:
        found = [
            (f"row {number} of the {name} set", text) for name, rows in sets.items() for number, text in rows.prompts()
        ]
        self._places = [place for place, _ in found]
        prompts = [(at, text) for at, (_, text) in enumerate(found)]
        self._rows = {key(prompt): at for at, prompt in prompts}
        self._near: NearIndex | None = near_to(prompts) if prompts else None

    def exact(self, row: Row) -> Problem | None:
        """Why a row can't be trained on, when its very prompt is held out."""
        at = self._rows.get(key(row.prompt))
        if at is None:
            return None
        return DropReason.IN_EVALUATION, row.number, f"its prompt is {self._places[at]}"

    def without_near(self, rows: list[Row], counter: Counter) -> list[Row]:
        """The rows whose prompts are not nearly held-out ones; the others are counted."""
        if self._near is None:
            return rows
        kept = []
        texts = ((row.number, row.prompt) for row in rows)
        for row, signature in zip(rows, signatures(texts), strict=True):
            at = self._near.find(signature)
            if at is None:
                kept.append(row)
            else:
                counter.add(DropReason.NEAR_EVALUATION, row.number, f"its prompt is nearly {self._places[at]}")
        return kept


class NearDuplicates:
    """Rows that nearly repeat an earlier one: counted for a person to look at, and kept."""

    def __init__(self) -> None:
        self._index = NearIndex()
        self._examples: list[Example] = []
        self._count = 0
        self.checked = 0

    def note(self, rows: list[Row]) -> None:
        """Look at rows in order, as long as there is room."""
        rows = rows[: NEAR_DUPLICATE_ROWS - self.checked]
        self.checked += len(rows)
        # Rows that share a long prompt are alike as a whole; they repeat each other when their responses do.
        responses = ["\n".join(filter(None, (row.response or row.chosen, row.rejected))) for row in rows]
        texts = ((row.number, f"{row.prompt}\n{response}") for row, response in zip(rows, responses, strict=True))
        for signature, response in zip(signatures(texts), responses, strict=True):
            part = shingles_of(response)
            earlier = self._index.find(signature, part)
            if earlier is None:
                self._index.add(signature, part)
                continue
            self._count += 1
            if len(self._examples) < EXAMPLES_KEPT:
                self._examples.append(example(signature.row, f"nearly the same as row {earlier}"))

    def tally(self) -> Tally:
        """How many there were."""
        return Tally(count=self._count, examples=tuple(self._examples))
