"""How varied a policy's texts are: distinct-2 over all of them (Li et al. 2016). Pure."""

import re
from collections.abc import Iterable
from itertools import pairwise

_ALONE = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Chinese characters: written without spaces, each is taken for a word."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")


def distinct_words(texts: Iterable[str]) -> float:
    """The share of distinct pairs of successive words among all texts'; 0 where no text has two words."""
    seen: set[tuple[str, str]] = set()
    count = 0
    for text in texts:
        for pair in pairwise(_WORD.findall(text.casefold())):
            seen.add(pair)
            count += 1
    return len(seen) / max(1, count)
