"""Scores for a step's responses: from the journal where they are known, from the scorers where not."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from .distributed import Group
from .journal import Journal, Key, text_hash
from .rewards import scores_tensor
from .samples import SampleLog, scored_texts


class Scorers(Protocol):
    """What is used of rlhf_scoring's scorers."""

    def score(
        self, name: str, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """Score texts; None where a score is missing."""
        ...

    def digest(self, name: str) -> str:
        """Digest of everything that decides the score."""
        ...


class DataRow(Protocol):
    """What is used of a row of a data set."""

    @property
    def number(self) -> int:
        """Number of the row in its source, from 1."""
        ...

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        ...

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt as the policy sees it."""
        ...

    @property
    def response(self) -> str | None:
        """The demonstration, in data that holds them."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """The row's columns as graders see them."""
        ...


class StepScorer:
    """Scores every rank's responses and gives all of them to every rank."""

    def __init__(
        self,
        scorers: Scorers,
        names: Sequence[str],
        journal: Journal,
        group: Group,
        samples: SampleLog | None = None,
    ) -> None:
        self._scorers = scorers
        self._names = list(dict.fromkeys(names))
        self._journal = journal
        self._group = group
        self._samples = samples

    def score(self, step: int, rows: Sequence[DataRow], texts: Sequence[str]) -> dict[str, Tensor]:
        """Score this rank's rows and join the ranks' scores in rank order.

        Returns [world × rows] float64 per scorer, NaN where missing. They are in the journal before this returns.
        """
        hashes = [text_hash(row.prompt, text) for row, text in zip(rows, texts, strict=True)]
        found: dict[str, Tensor] = {}
        own: dict[str, list[float | None]] = {}
        noted: list[tuple[Key, float | None]] = []
        for name in self._names:
            digest = self._scorers.digest(name)
            keys = [Key(step, digest, row.number, text) for row, text in zip(rows, hashes, strict=True)]
            scores = own[name] = self._one(name, keys, rows, texts)
            noted += zip(keys, scores, strict=True)
            tensor = scores_tensor(scores, device=self._group.device)
            found[name] = self._group.gather_rows(tensor, "the gathering of scores").cpu()
        everything = self._group.gather_list(noted, "the gathering of the reward journal")
        if self._group.is_main:
            self._journal.write(step, everything)
            if self._samples is not None:
                scored = scored_texts([(row.number, row.prompt) for row in rows], texts, own)
                self._samples.saw(step, [key.row for key, _ in everything], scored)
        self._group.barrier("the reward journal")
        return found

    def _one(self, name: str, keys: Sequence[Key], rows: Sequence[DataRow], texts: Sequence[str]) -> list[float | None]:
        scores: list[float | None] = [None] * len(rows)
        asked = []
        for place, key in enumerate(keys):
            known, scores[place] = self._journal.look_up(key)
            if not known:
                asked.append(place)
        if asked:
            fresh = self._scorers.score(
                name,
                [rows[place].prompt for place in asked],
                [texts[place] for place in asked],
                [rows[place].fields for place in asked],
            )
            for place, score in zip(asked, fresh, strict=True):
                scores[place] = score
        return scores
