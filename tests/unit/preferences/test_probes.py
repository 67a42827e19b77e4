import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.preferences.probes import PROBES, bold, bulleted, effects, padded, sycophantic, variants, verbose


def judged(row: int, first: str, second: str | None = None) -> Judged:
    return Judged(row, f"p{row}", first, second, 1.0, False, 1.0, "overall", row)


@given(st.text(min_size=1).filter(str.strip))
def test_a_change_keeps_every_word_of_the_text(text: str) -> None:
    for probe in PROBES:
        changed = probe.change(text)
        for word in text.split():
            assert word in changed or probe.name == "bold"


def test_what_each_probe_does() -> None:
    text = "Use a rope. Tie it well."
    assert verbose(text).startswith(text)
    assert len(padded(text)) >= 2 * len(text)
    assert bulleted(text) == "- Use a rope.\n- Tie it well."
    assert bold(text) == "**Use a** rope. Tie it well."
    assert sycophantic(text).endswith(text)


def test_a_text_that_a_change_does_not_fit_is_left_out() -> None:
    found = variants([judged(1, "One sentence only"), judged(2, "- a list\n- already")])
    assert "bullets" not in {variant.probe for variant in found}
    assert all(variant.plain != variant.changed for variant in found)


def test_the_number_of_texts_is_bounded_and_each_stands_once() -> None:
    rows = [judged(at, f"text {at}. More.", f"other {at}. More.") for at in range(1000)]
    found = [variant for variant in variants([*rows, *rows], limit=50) if variant.probe == "verbosity"]
    assert 25 <= len(found) <= 50
    assert len({(variant.prompt, variant.plain) for variant in found}) == len(found)


def test_a_score_that_is_length_shows_in_the_probes_that_lengthen() -> None:
    found = variants([judged(at, "word " * (at + 3), "other. " * (2 * at + 1)) for at in range(40)])
    plain, changed = (
        [float(len(text)) for text in side] for side in zip(*((v.plain, v.changed) for v in found), strict=True)
    )
    by_name = {each.probe: each for each in effects(found, plain, changed)}
    for name in ("verbosity", "length", "sycophancy"):
        effect, interval = by_name[name].effect, by_name[name].interval
        assert effect is not None
        assert interval is not None
        assert 0 < interval[0] <= effect <= interval[1]
        assert by_name[name].share_raised == 1.0
    assert by_name["position"].texts == 0
    assert "does not apply" in by_name["position"].note


def test_a_score_without_spread_or_too_few_texts_has_no_effect_size() -> None:
    found = variants([judged(1, "Some words here."), judged(2, "Other words there.")])
    alike = effects(found, [1.0] * len(found), [1.0] * len(found))
    assert all(each.effect is None and each.note for each in alike)
    missing = effects(found, [None] * len(found), [1.0] * len(found))
    assert all(each.texts == 0 for each in missing)


def test_the_effect_is_measured_in_the_spread_of_the_plain_scores() -> None:
    found = [v for v in variants([judged(at, f"text {at}") for at in range(30)]) if v.probe == "verbosity"]
    plain = [float(at % 2) for at in range(len(found))]
    (effect, *_) = effects(found, plain, [score + 1.0 for score in plain], spread=2.0)
    assert effect.effect == pytest.approx(0.5)
    assert effect.interval == pytest.approx((0.5, 0.5))
