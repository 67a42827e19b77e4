"""Rows held against the lengths that the policy can take: tokenised once, dropped or cut, and counted either way."""

from collections.abc import Callable

from rlhf_operator.api.rlhfjob import Generation, OverlongPrompt

from .reasons import Counter, DropReason
from .rows import Row

Encode = Callable[[list[str]], list[list[int]]]
"""Texts to the tokens that the policy sees, the tokenizer's own start included."""


class Fitting:
    """Makes rows fit the generation's lengths. `truncated` counts the prompts that lost their beginning."""

    def __init__(self, generation: Generation, encode: Encode, *, judged: bool = False) -> None:
        """judged: the policy learns from chosen and rejected responses, so they must fit too."""
        self._judged = judged
        self._longest_prompt = generation.max_prompt_length
        self._longest_response = generation.max_response_length
        self._drop = generation.overlong_prompt is OverlongPrompt.DROP
        self._encode = encode
        self.truncated = Counter()

    def fit(self, rows: list[Row], counter: Counter) -> list[tuple[Row, list[int]]]:
        """The rows that fit or are made to fit, each with its prompt's tokens; the others are counted."""
        if not rows:
            return []
        start = self._encode([""])[0]
        prompts = self._encode([row.prompt for row in rows])
        lengths = self._lengths(rows)
        fitting = []
        for row, ids, length in zip(rows, prompts, lengths, strict=True):
            prompt_ids = self._prompt(row, ids, start, counter)
            if prompt_ids is None:
                continue
            if length >= self._longest_response:
                # Cut, it would teach the policy never to end; the end token needs a place too.
                detail = f"the response has {length} tokens, maxResponseLength is {self._longest_response}"
                counter.add(DropReason.OVERLONG_RESPONSE, row.number, detail)
                continue
            fitting.append((row, prompt_ids))
        return fitting

    def _lengths(self, rows: list[Row]) -> list[int]:
        """Tokens of the longest response that is learned from, by row."""
        found = [0] * len(rows)
        columns = [[row.response for row in rows]]
        if self._judged:
            columns += [[row.chosen for row in rows], [row.rejected for row in rows]]
        for texts in columns:
            if any(texts):
                encoded = self._encode([text or "" for text in texts])
                found = [max(length, len(ids)) for length, ids in zip(found, encoded, strict=True)]
        return found

    def _prompt(self, row: Row, ids: list[int], start: list[int], counter: Counter) -> list[int] | None:
        """The prompt's tokens, its beginning cut if need be and allowed; None when it is left out."""
        if len(ids) <= self._longest_prompt:
            return ids
        detail = f"the prompt has {len(ids)} tokens, more than maxPromptLength {self._longest_prompt}"
        kept_start = common_start(ids, start)
        room = self._longest_prompt - kept_start
        if self._drop or room <= 0:
            counter.add(DropReason.OVERLONG_PROMPT, row.number, detail)
            return None
        self.truncated.add(DropReason.OVERLONG_PROMPT, row.number, detail)
        return ids[:kept_start] + ids[-room:]


def common_start(ids: list[int], start: list[int]) -> int:
    """How many of the first tokens are those that every text begins with (BOS): they stay when a beginning is cut."""
    same = 0
    while same < min(len(ids), len(start)) and ids[same] == start[same]:
        same += 1
    return same
