"""How varied answers are: the share of distinct word pairs in two answers to different requests. Pure.

Answers are taken two by two, each once: so the values are as independent as the requests are, and their mean estimates
the expected variety of two answers drawn at random, as Rao's quadratic entropy is an expected distance of two draws. It
falls when answers become alike (mode collapse), and when they repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

WORDS = 128
"""Of each answer, from its beginning: of longer texts a smaller share would be distinct, however varied they are."""
_CHARACTERS = 16 * WORDS
_ALONE = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Chinese characters: written without spaces, each is taken for a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")

Bigrams = Sequence[int]


def bigrams(text: str) -> Bigrams:
    """Hashes of the successive pairs of words, good within this process; empty for fewer than two words."""
    words = _WORD.findall(text[:_CHARACTERS].casefold())[:WORDS]
    return [hash(each) for each in pairwise(words)]


def distinct(one: Bigrams, other: Bigrams) -> float:
    """The share of distinct ones among those of both (distinct-2; Li et al. 2016), above 0 and at most 1."""
    return len({*one, *other}) / (len(one) + len(other))


class Pairing:
    """Holds the first answer of a pair until the second comes."""

    def __init__(self) -> None:
        self._first: Bigrams = ()
        self._conversation = ""

    def add(self, text: str, conversation: str) -> float | None:
        """The variety of a pair that is now complete. Answers of one conversation, named by its id, are no pair."""
        found = bigrams(text)
        if not found or (self._first and conversation and conversation == self._conversation):
            return None
        if not self._first:
            self._first, self._conversation = found, conversation
            return None
        first, self._first = self._first, ()
        return distinct(first, found)
