"""A tiny policy with random weights, made on the fly, that vLLM serves. Imports torch and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(250)]
MAX_LENGTH = 16_384
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}assistant "
_SPECIAL = ["<unk>", "<s>", "</s>", "system", "user", "assistant"]


def make(folder: Path, seed: int = 1, **shape: Any) -> Path:
    """Model and tokenizer: one token to the word. shape: what differs from a tiny one."""
    numbers = {word: at for at, word in enumerate([*_SPECIAL, *WORDS])}
    config: dict[str, Any] = {
        "vocab_size": len(numbers),
        "hidden_size": 64,  # vLLM's attention wants heads of at least 32
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **shape,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)
    return folder
