"""A stop text ends a response where the response holds it, whatever its prompt ends with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_trainer.policy.generation import SamplingSettings, StopTexts, sample, texts_of
from rlhf_trainer.policy.load import load_tokenizer

from .tiny import make_base

ROWS = 128
FREE = SamplingSettings(max_tokens=6, temperature=1.0, end_tokens=[0], pad_token=0, stop=[])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("stop") / "base")


def test_a_stop_text_that_begins_in_the_prompt_ends_nothing(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    criterion = StopTexts(["late sorry"], tokenizer, prompt_length=2)
    rows = ["order late sorry good", "order late late sorry", "late sorry late good"]
    ids = torch.tensor([tokenizer(row).input_ids for row in rows])
    assert criterion(ids, torch.zeros(3, 14)).tolist() == [False, True, False]


def test_what_is_drawn_is_what_would_be_drawn_without_a_stop_text_up_to_where_it_ends(base: Path) -> None:
    tokenizer: Any = load_tokenizer(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    prompts = [tokenizer("order late").input_ids] * ROWS
    keys = torch.arange(ROWS, dtype=torch.int64)
    free = texts_of(sample(model, prompts, keys, FREE, tokenizer, ROWS), tokenizer)
    stop = "late sorry"
    stopped = texts_of(sample(model, prompts, keys, replace(FREE, stop=[stop]), tokenizer, ROWS), tokenizer, [stop])
    assert any(text.startswith("sorry ") for text in free), "no row would have been cut by its prompt"
    assert any(stop in text for text in free), "no row holds the stop text"
    assert stopped == [text.split(stop)[0] if stop in text else text for text in free]
