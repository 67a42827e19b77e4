"""Rows as token ids, the same for every training: prompts as the policy sees them, completions with their end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_trainer.data import PreparedRow

from .attempt import Attempt

PLACE = "place"
"""The one column of a trainer's data set: places in the order of the whole run."""


class Completions:
    """Tokenises rows that were made to fit when the data was prepared."""

    def __init__(self, attempt: Attempt) -> None:
        self._tokenizer = attempt.tokenizer
        self._longest = attempt.sampling.max_tokens

    def prompt(self, row: PreparedRow) -> list[int]:
        """The prompt's tokens."""
        return list(row.prompt_ids)

    def response(self, text: str | None) -> list[int]:
        """A completion's tokens and the end token; one that is too long is cut and then has no end."""
        ids = self._tokenizer(text or "", add_special_tokens=False).input_ids
        return [*ids, self._tokenizer.eos_token_id][: self._longest]


class Batches:
    """Turns places into a batch by TRL's own collator; rows are tokenised as they are taken."""

    def __init__(
        self, example: Callable[[int], dict[str, Any]], collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        self._example = example
        self._collate = collate

    def __call__(self, places: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """Make the batch of these places."""
        return self._collate([self._example(each[PLACE]) for each in places])
