from rlhf_operator.api.rewardmodel import Aggregation
from rlhf_trainer.data.reasons import Counter
from rlhf_trainer.data.similarity import key
from rlhf_trainer.preferences.aggregate import Label
from rlhf_trainer.preferences.comparisons import Comparison, Place
from rlhf_trainer.preferences.judgements import Judgement
from rlhf_trainer.preferences.standing import standing


def compared(
    row: int, first: str, second: str, votes: tuple[float, ...] = (1.0,), gold: float | None = None, at: int = 1
) -> Comparison:
    judgement = Judgement(row, key("p"), (), "overall", 1.0, {})
    return Comparison(judgement, Place(row, 0), Place(row, at), (key(first), key(second)), votes, gold, 1.0)


def drops(rules: Aggregation, *rows: tuple[Comparison, Label]) -> tuple[list[int], dict[str, list[int]]]:
    """Rows kept, and rows dropped by reason."""
    counter = Counter()
    found = standing([each for each, _ in rows], [label for _, label in rows], rules, counter)
    dropped = {str(reason): [example.row for example in tally.examples] for reason, tally in counter.tallies().items()}
    return [each.first.row for each, _ in found.kept], dropped


FIRST, SECOND, TIE = Label(1.0, False, 1.0), Label(0.0, False, 1.0), Label(0.5, True, 1.0)


def test_pairs_with_opposite_labels_are_all_dropped_and_named_whichever_response_came_first() -> None:
    kept, dropped = drops(
        Aggregation(),
        (compared(1, "a", "b"), FIRST),
        (compared(2, "b", "a"), FIRST),
        (compared(3, "a", "b"), FIRST),
        (compared(4, "a", "c"), FIRST),
    )
    assert kept == [4]
    assert dropped == {"Contradiction": [1, 2, 3]}


def test_repetitions_leave_one() -> None:
    kept, dropped = drops(Aggregation(), (compared(1, "a", "b"), FIRST), (compared(2, "b", "a"), SECOND))
    assert kept == [1]
    assert dropped == {"Duplicate": [2]}


def test_ties_are_kept_softly_or_dropped_as_asked() -> None:
    rows = (compared(1, "a", "b"), TIE), (compared(2, "a", "c"), FIRST)
    assert drops(Aggregation(), *rows) == ([1, 2], {})
    assert drops(Aggregation.model_validate({"ties": "Drop"}), *rows) == ([2], {"Tie": [1]})


def test_too_little_agreement_drops_a_row_unless_it_is_gold() -> None:
    rules = Aggregation(min_agreement=2 / 3)
    kept, dropped = drops(
        rules,
        (compared(1, "a", "b", (1.0, 1.0, 0.0)), Label(1.0, False, 2 / 3)),
        (compared(2, "a", "c", (1.0, 0.0)), Label(0.5, True, 0.5)),
        (compared(3, "a", "d", (1.0, 0.0), gold=1.0), Label(1.0, False, 0.5)),
    )
    assert kept == [1, 3]
    assert dropped == {"LowAgreement": [2]}


def test_a_row_that_keeps_one_of_its_comparisons_is_not_counted_as_dropped() -> None:
    counter = Counter()
    rows = [compared(1, "a", "b"), compared(1, "a", "c", at=2)]
    found = standing(rows, [TIE, FIRST], Aggregation.model_validate({"ties": "Drop"}), counter)
    assert [str(reason) for reason in found.dropped] == ["Tie"]
    assert counter.tallies() == {}
