"""Strength of responses from comparisons of them: Bradley–Terry through crowd-kit, and Borda's points. Pure."""

from collections.abc import Sequence

from .verdicts import Ranks

ITERATIONS = 200
_PRIOR = 0.5
"""Wins that each side of a compared pair is given beforehand: who won every comparison is not infinitely better."""

Outcome = tuple[int, int, float]
"""Two items and the vote on them: 1 the first won, 0 the second, ½ tie."""


def bradley_terry(outcomes: Sequence[Outcome], items: int) -> list[float]:
    """Strength of each item, so that P(i beats j) = s_i / (s_i + s_j) (Bradley & Terry 1952; MM, Hunter 2004).

    A tie is half a win for each. Items in parts that were never compared with each other have no common scale.
    """
    if items == 2 or len({(min(i, j), max(i, j)) for i, j, _ in outcomes}) == 1:
        return _two(outcomes, items)
    import pandas as pd
    from crowdkit.aggregation.pairwise.bradley_terry import BradleyTerry

    # The library counts whole wins: a half is one row, a whole win two.
    rows = [(i, j, winner) for i, j, vote in outcomes for winner in [i] * int(2 * vote) + [j] * int(2 - 2 * vote)]
    for i, j in sorted({(min(i, j), max(i, j)) for i, j, _ in outcomes}):
        rows += [(i, j, i), (i, j, j)]
    table = pd.DataFrame(rows, columns=["left", "right", "label"])
    # Its stopping rule compares an array with itself and ends after two rounds; tolerance 0 lets it run.
    scores = BradleyTerry(n_iter=ITERATIONS, tol=0.0).fit_predict(table)
    return [float(scores.get(item, 1.0)) for item in range(items)]


def _two(outcomes: Sequence[Outcome], items: int) -> list[float]:
    """The closed form for two items that were compared with each other only."""
    strengths = [1.0] * items
    i, j, _ = outcomes[0]
    won = sum(vote if (a, b) == (i, j) else 1.0 - vote for a, b, vote in outcomes)
    strengths[i], strengths[j] = won + _PRIOR, len(outcomes) - won + _PRIOR
    return strengths


def borda(rankings: Sequence[Ranks | None], items: int) -> list[float | None]:
    """Mean points of each item: of the other items ranked with it, the share that stands below it; ties count one half.

    A share instead of a count, so that an annotator who ranked fewer responses weighs no less. None: never ranked.
    """
    points: list[list[float]] = [[] for _ in range(items)]
    for ranks in rankings:
        known = [(at, rank) for at, rank in enumerate(ranks or ()) if rank is not None]
        if len(known) < 2:
            continue
        for at, rank in known:
            below = sum(1.0 if other > rank else 0.5 if other == rank else 0.0 for it, other in known if it != at)
            points[at].append(below / (len(known) - 1))
    return [sum(each) / len(each) if each else None for each in points]
