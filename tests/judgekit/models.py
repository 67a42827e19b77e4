"""Tiny reward models with random weights, made on the fly, as sealed versions. Imports torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from judgekit.versions import Version, seal
from rlhf_operator.api.scorerfile import Probe, ScorerFile
from rlhf_scoring.encode import InputFormat, InputKind, store_input_format
from rlhf_scoring.reward_model import RewardScorer

WORDS = [f"w{number}" for number in range(200)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
_NUMBER = {word: at for at, word in enumerate([*_SPECIAL, *WORDS])}
MAX_LENGTH = 64
PAIRS = [
    ("w1 w2 w3", "w4"),
    ("w5", "w6 w7 w8 w9 w10"),
    ("w1", ""),
    ("", "w3"),
    ("", ""),
    ("w9 w8 " * 60, "w3 w2"),
    ("w1 w2", "w4 w5 " * 60),
    ("w1 " * 50, "w2 " * 50),
    ("w1", "w2 </s>"),
    ("w1", "w2 [PAD] [PAD]"),
    ("w11 w12 w13 w14", "w15 w16 w17"),
    ("w17 w16 w15", "w14 w13 w12 w11"),
]
"""Texts at every edge: empty, cut on either side, with special tokens spelt out, and each other's reverse."""


class Kind(StrEnum):
    """What a model is built like."""

    ENCODER = "encoder"
    """BERT: pairs with token types."""
    DECODER = "decoder"
    """Llama without a padding token: its end token stands in."""


def dimensions(heads: int) -> list[str]:
    """Names of the heads."""
    return ["overall"] if heads == 1 else [f"quality{number}" for number in range(1, heads + 1)]


def temperatures(heads: int) -> list[float]:
    """One per head, none of them 1."""
    return [0.5 + 0.75 * number for number in range(heads)]


MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "intermediate_size": 1536,
    "initializer_range": 0.02,
}
"""The shape of a real small encoder, for what takes as long as one."""


def make(folder: Path, kind: Kind, heads: int, seed: int = 1, shape: Mapping[str, Any] | None = None) -> Path:
    """A model, its tokenizer and its input format. shape: what differs from a tiny one."""
    names = dict(enumerate(dimensions(heads)))
    config: dict[str, Any] = {
        "vocab_size": len(_NUMBER),
        "hidden_size": 64,  # vLLM's attention wants heads of at least 32
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "max_position_embeddings": MAX_LENGTH,
        "id2label": names,
        "label2id": {name: number for number, name in names.items()},
        "initializer_range": 0.5,
        **(shape or {}),
    }
    torch.manual_seed(seed)
    if kind is Kind.ENCODER:
        BertForSequenceClassification(BertConfig(**config)).save_pretrained(folder)
        _tokenizer(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]").save_pretrained(folder)
        store_input_format(folder, InputFormat(kind=InputKind.PAIR, max_length=MAX_LENGTH))
    else:
        LlamaForSequenceClassification(LlamaConfig(**config)).save_pretrained(folder)
        _tokenizer(bos_token="<s>", eos_token="</s>").save_pretrained(folder)
        store_input_format(folder, InputFormat(kind=InputKind.CONCATENATION, max_length=MAX_LENGTH, separator=" w0 "))
    return folder


def as_version(folder: Path, heads: int, pairs: Sequence[tuple[str, str]] = PAIRS) -> Version:
    """Seal a model's folder, with probes as this process scores them."""
    scorer = ScorerFile.model_validate(
        {"kind": "Model", "dimensions": dimensions(heads), "temperatures": temperatures(heads)}
    )
    bare = seal(folder, scorer, [])
    expected = in_process(bare, pairs)
    probes = [
        Probe(prompt=prompt, response=response, scores=scores)
        for (prompt, response), scores in zip(pairs, expected, strict=True)
    ]
    return seal(folder, scorer, probes)


def in_process(version: Version, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
    """The trainer's own scores, by dimension."""
    scorer = RewardScorer("test", version.directory)
    try:
        scores = scorer.scores([prompt for prompt, _ in pairs], [response for _, response in pairs])
    finally:
        scorer.close()
    return [each.dimensions for each in scores]


def _tokenizer(**special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(_NUMBER, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "cls_token" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", _NUMBER["[CLS]"]), ("[SEP]", _NUMBER["[SEP]"])],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)
