import pytest

from rlhf_operator.api.shared import Format
from rlhf_trainer.data.similarity import key
from rlhf_trainer.errors import ConfigError
from rlhf_trainer.preferences.comparisons import comparisons_of
from rlhf_trainer.preferences.findings import findings, refuse_nothing_to_learn
from rlhf_trainer.preferences.judgements import Judgement
from rlhf_trainer.preferences.verdicts import Ranks


def row(
    number: int,
    prompt: str,
    first: str,
    second: str,
    verdicts: tuple[Ranks, ...] = ((1, 2), (1, 2)),
    gold: Ranks | None = None,
) -> Judgement:
    return Judgement(number, key(prompt), (key(first), key(second)), "overall", 1.0, {}, verdicts, gold)


def names(rows: list[Judgement]) -> dict[str, int]:
    return {found.name: found.count for found in findings("train", rows, comparisons_of(Format.PAIRS, rows))}


def test_sound_data_is_not_accused() -> None:
    rows = [row(at, f"prompt {at // 3}", f"good {at}", f"bad {at}") for at in range(1, 61)]
    assert names(rows) == {}


def test_columns_that_hold_the_prompt_as_a_response_are_refused_with_row_numbers() -> None:
    rows = [row(at, f"prompt {at}", f"prompt {at}", f"bad {at}") for at in range(1, 31)]
    with pytest.raises(ConfigError, match=r"in 30 of 30 rows .*1, 2, 3, .* mend columns") as found:
        names(rows)
    assert found.value.reason == "SwappedColumns"


def test_a_few_echoes_are_named_and_kept() -> None:
    rows = [row(at, f"prompt {at}", f"prompt {at}" if at == 7 else f"good {at}", f"bad {at}") for at in range(1, 31)]
    assert names(rows) == {"ResponseIsPrompt": 1}


def test_prompts_that_never_repeat_beside_responses_that_do_are_suspicious() -> None:
    rows = [row(at, f"answer {at}", f"question {at % 5}", f"bad {at}") for at in range(1, 31)]
    assert names(rows) == {"MaybeSwappedColumns": 30}


def test_a_response_column_with_one_text_is_named() -> None:
    rows = [row(at, f"prompt {at // 2}", f"good {at}", "I don't know") for at in range(1, 31)]
    assert names(rows) == {"ConstantResponses": 30}


def test_one_annotator_is_said() -> None:
    rows = [row(at, f"prompt {at // 2}", f"good {at}", f"bad {at}", ((1, 2),)) for at in range(1, 31)]
    assert names(rows) == {"OneAnnotator": 30}


def test_labels_that_gold_rows_contradict_are_refused() -> None:
    rows = [
        row(at, f"prompt {at}", f"good {at}", f"bad {at}", gold=(2, 1) if at <= 12 else None) for at in range(1, 31)
    ]
    with pytest.raises(ConfigError, match=r"only 0 of 24 judgements of gold rows are right.*turned round"):
        names(rows)


def test_nothing_but_ties_can_teach_nothing() -> None:
    with pytest.raises(ConfigError, match=r"all 3 usable .* overall are ties \(first rows: 4, 5, 6\)") as found:
        refuse_nothing_to_learn("train", "overall", [True] * 3, [4, 5, 6])
    assert found.value.reason == "AllTies"
    refuse_nothing_to_learn("train", "overall", [True, False], [4, 5])


def test_a_dimension_that_nobody_judged_can_not_be_learnt() -> None:
    with pytest.raises(ConfigError, match="no usable row judges dimension tone") as found:
        refuse_nothing_to_learn("train", "tone", [], [])
    assert found.value.reason == "NothingToLearn"
