"""What is odd about a data set as a whole: named for a person, or a reason not to train at all. Pure."""

from collections import Counter as Votes
from collections.abc import Callable, Sequence

from rlhf_trainer.comparison import wilson
from rlhf_trainer.data.reasons import EXAMPLES_KEPT, example
from rlhf_trainer.errors import ConfigError

from .comparisons import Comparison
from .datareport import Finding
from .judgements import Judgement

MIN_ROWS = 20
"""Below this many rows a pattern may be chance."""
ECHO_SHARE = 0.5
CONSTANT_SHARE = 0.9
REPEATED_SHARE = 0.5
GOLD_ROWS = 10


def findings(name: str, judgements: Sequence[Judgement], comparisons: Sequence[Comparison]) -> tuple[Finding, ...]:
    """Everything odd. Raises ConfigError for labels that are certainly wrong: columns swapped, judgements inverted."""
    _refuse_swapped(name, judgements)
    _refuse_inverted(name, comparisons)
    checks: tuple[Callable[[], Finding | None], ...] = (
        lambda: _echoes(judgements),
        lambda: _constant(judgements),
        lambda: _swapped(judgements),
        lambda: _one_annotator(comparisons),
    )
    return tuple(found for found in (check() for check in checks) if found is not None)


def refuse_nothing_to_learn(name: str, dimension: str, ties: Sequence[bool], rows: Sequence[int]) -> None:
    """Raise ConfigError when no comparison in a dimension has a winner. ties, rows: of its usable comparisons."""
    if not ties:
        raise ConfigError(
            f"{name}: no usable row judges dimension {dimension}: there is nothing to learn. Add rows, or remove the "
            "dimension",
            reason="NothingToLearn",
        )
    if all(ties):
        first = ", ".join(str(row) for row in rows[:EXAMPLES_KEPT])
        raise ConfigError(
            f"{name}: all {len(ties)} usable comparisons in dimension {dimension} are ties (first rows: {first}): "
            "there is nothing to learn. Add judgements with a winner, or mend the column of the judgement",
            reason="AllTies",
        )


def _refuse_swapped(name: str, judgements: Sequence[Judgement]) -> None:
    echoes = [each.row for each in judgements if each.prompt in each.responses]
    if len(judgements) >= MIN_ROWS and len(echoes) >= ECHO_SHARE * len(judgements):
        raise ConfigError(
            f"{name}: in {len(echoes)} of {len(judgements)} rows a response is the prompt itself (first rows: "
            f"{', '.join(map(str, echoes[:EXAMPLES_KEPT]))}): columns of prompt and response are swapped or the same; "
            "mend columns",
            reason="SwappedColumns",
        )


def _refuse_inverted(name: str, comparisons: Sequence[Comparison]) -> None:
    checked = [
        (each.judgement.row, vote == each.gold)
        for each in comparisons
        if each.gold is not None and each.gold != 0.5
        for vote in each.cast
        if vote != 0.5
    ]
    if len(checked) < GOLD_ROWS:
        return
    right = sum(same for _, same in checked)
    upper = wilson(right / len(checked), len(checked))[1]
    if upper < 0.5:
        wrong = sorted({row for row, same in checked if not same})
        raise ConfigError(
            f"{name}: only {right} of {len(checked)} judgements of gold rows are right, fewer than chance gives (first "
            f"wrong rows: {', '.join(map(str, wrong[:EXAMPLES_KEPT]))}): the labels or the response columns are "
            "turned round; mend columns",
            reason="SwappedColumns",
        )


def _echoes(judgements: Sequence[Judgement]) -> Finding | None:
    rows = [each.row for each in judgements if each.prompt in each.responses]
    return _finding("ResponseIsPrompt", "a response repeats its prompt and nothing else", rows)


def _constant(judgements: Sequence[Judgement]) -> Finding | None:
    """A response column that holds nearly always the same text: whatever is learnt is learnt about that text."""
    if len(judgements) < MIN_ROWS or len(judgements[0].responses) < 2:
        return None
    for at in range(len(judgements[0].responses)):
        text, count = Votes(each.responses[at] for each in judgements).most_common(1)[0]
        if count >= CONSTANT_SHARE * len(judgements):
            rows = [each.row for each in judgements if each.responses[at] == text]
            return _finding("ConstantResponses", f"response column {at + 1} holds one text in nearly all rows", rows)
    return None


def _swapped(judgements: Sequence[Judgement]) -> Finding | None:
    """Prompts repeat and responses differ; where it is the other way round columns may be swapped.

    Answers that are one word (yes, no) look the same, so that it is said and not refused.
    """
    if len(judgements) < MIN_ROWS:
        return None
    prompts = len({each.prompt for each in judgements})
    for at in range(min(len(each.responses) for each in judgements)):
        texts = Votes(each.responses[at] for each in judgements)
        if prompts == len(judgements) and len(texts) <= REPEATED_SHARE * prompts:
            rows = [each.row for each in judgements if texts[each.responses[at]] > 1]
            message = (
                f"no two rows have the same prompt, but response column {at + 1} has {len(texts)} different texts: "
                "columns of prompt and response may be swapped"
            )
            return _finding("MaybeSwappedColumns", message, rows)
    return None


def _one_annotator(comparisons: Sequence[Comparison]) -> Finding | None:
    compared = [each for each in comparisons if each.second is not None]
    if not compared or any(len(each.cast) > 1 for each in compared):
        return None
    rows = sorted({each.judgement.row for each in compared})
    return _finding(
        "OneAnnotator", "no row was judged by two annotators: agreement and reliability can't be measured", rows
    )


def _finding(name: str, message: str, rows: Sequence[int]) -> Finding | None:
    if not rows:
        return None
    examples = tuple(example(row, message) for row in rows[:EXAMPLES_KEPT])
    return Finding(name=name, message=message, count=len(rows), examples=examples)
