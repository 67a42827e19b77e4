"""A tiny encoder with random weights that knows the words of the test data: what a small RewardModel starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from trainer.core.tiny import WORDS

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_NUMBER = {word: number for number, word in enumerate([*_SPECIAL, *WORDS])}


def make_encoder(folder: Path) -> Path:
    """A BERT without a head, as a Hugging Face directory."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(_NUMBER),
        hidden_size=64,  # vLLM's attention wants heads of at least 32
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(_NUMBER, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, _NUMBER[token]) for token in ("[CLS]", "[SEP]")],
    )
    named = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    return folder
