"""Makes a small base model on the spot: a tokenizer and a Llama from scratch, and a short supervised fine-tuning.

What it is taught is the caller's business; RL is the trainer's.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from demo.recipe import Pair, Recipe, Report

END = "<|end|>"
PADDING = "<|padding|>"
IGNORED = -100

# Files are loaded in a moment; their bars would break the demo's own lines.
disable_progress_bar()


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the texts: every string can be encoded, nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PADDING, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, clean_up_tokenization_spaces=False
    )


def encode(tokenizer: PreTrainedTokenizerFast, pair: Pair, max_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids of prompt + answer + end, and labels that leave the prompt out of the loss.

    Prompt and answer are encoded apart, as they are when a policy continues a prompt.
    """
    prompt = tokenizer(pair[0], add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(pair[1], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    prompt = prompt[-(max_tokens // 2) :]
    answer = answer[: max_tokens - len(prompt)]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def batches(rows: list[tuple[list[int], list[int]]], recipe: Recipe, padding: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`recipe.steps` batches of (ids, labels), each [batch, longest row], in an order that follows from the seed."""
    rng = random.Random(recipe.seed)
    queue: list[int] = []
    for _ in range(recipe.steps):
        while len(queue) < recipe.batch:
            queue += rng.sample(range(len(rows)), len(rows))
        chosen, queue = [rows[i] for i in queue[: recipe.batch]], queue[recipe.batch :]
        width = max(len(ids) for ids, _ in chosen)
        yield (
            torch.tensor([ids + [padding] * (width - len(ids)) for ids, _ in chosen]),
            torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in chosen]),
        )


def rate_at(step: int, recipe: Recipe) -> float:
    """Learning rate: a short linear warm-up, then a cosine down to a twentieth."""
    warmup = max(1, recipe.steps // 20)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def fine_tune(
    model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], recipe: Recipe, padding: int, report: Report
) -> float:
    """Next-token cross-entropy on the answers; returns the mean loss of the last tenth of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses: list[float] = []
    model.train()
    for step, (ids, labels) in enumerate(batches(rows, recipe, padding)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, recipe)
        logits = model(input_ids=ids, attention_mask=(ids != padding).long()).logits
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        report(step + 1, recipe.steps, losses[-1])
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def make(pairs: Sequence[Pair], folder: Path, recipe: Recipe, report: Report) -> dict[str, Any]:
    """Write tokenizer and model for `pairs` into `folder`; returns what is worth telling about them."""
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer([text for pair in pairs for text in pair], recipe.vocabulary)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            # 32 values per head: smaller heads are refused by vLLM's CPU kernels.
            num_attention_heads=recipe.hidden // 32,
            max_position_embeddings=recipe.positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rows = [encode(tokenizer, pair, recipe.max_tokens) for pair in pairs]
    loss = fine_tune(model, rows, recipe, tokenizer.pad_token_id, report)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss": loss,
        "seconds": time.monotonic() - started,
    }


@torch.no_grad()
def answer(folder: Path, prompts: Sequence[str], max_new_tokens: int, seed: int | None = None) -> list[str]:
    """Continue each prompt with the model in `folder`: sampled with a seed, else the likeliest tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False)
    settings: dict[str, Any] = {"do_sample": False}
    if seed is not None:
        torch.manual_seed(seed)
        settings = {"do_sample": True, "top_k": 0}
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        ),
    )
    start = inputs["input_ids"].shape[1]
    return [text.strip() for text in tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)]
