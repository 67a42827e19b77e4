"""The base model's making, on a few texts."""

from pathlib import Path

import pytest

from demo import base_model
from demo.recipe import Recipe

PAIRS = [("Say hello.\n", "Hello there!"), ("Say bye.\n", "Bye now.")] * 8
TINY = Recipe(vocabulary=300, hidden=32, layers=1, intermediate=64, positions=64, max_tokens=48, steps=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("base")
    base_model.make(PAIRS, target, TINY, lambda *_: None)
    return target


def test_labels_leave_the_prompt_out_and_end_with_the_end_token() -> None:
    tokenizer = base_model.train_tokenizer([text for pair in PAIRS for text in pair], 300)
    ids, labels = base_model.encode(tokenizer, PAIRS[0], 64)
    learnt = [token for token in labels if token != base_model.IGNORED]
    assert tokenizer.decode(learnt) == "Hello there!" + base_model.END
    assert ids[-len(learnt) :] == learnt
    assert tokenizer.decode(ids[: -len(learnt)]) == "Say hello.\n"


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = base_model.train_tokenizer(["abc"], 300)
    text = "Zwölf €, 日本 and \t tabs"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_learns_its_pairs(folder: Path) -> None:
    assert base_model.answer(folder, ["Say hello.\n", "Say bye.\n"], 12) == ["Hello there!", "Bye now."]


def test_making_it_again_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    base_model.make(PAIRS, tmp_path, TINY, lambda *_: None)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
