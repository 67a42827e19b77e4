"""Sampling responses from a policy. Draws are keyed by row (sampling.py); what is done with them lies elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from rlhf_trainer.memory.trim import give_back
from rlhf_trainer.sampling import gumbel_noise

# How many micro-batches of rows are generated at once: without gradients a row takes far less memory.
MICRO_BATCHES_AT_ONCE = 16


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are drawn: the whole softmax at one temperature, and what ends a response."""

    max_tokens: int
    temperature: float
    end_tokens: list[int]
    pad_token: int
    stop: list[str]


@dataclass(frozen=True)
class Responses:
    """Sampled responses, right-padded."""

    tokens: Tensor
    """[batch, response] int64."""
    mask: Tensor
    """[batch, response] float32, 1 up to and including the token that ended the response."""
    finished: Tensor
    """[batch] bool: ended by itself rather than by the length limit."""
    logprobs: Tensor
    """[batch, response] float32: log-probabilities of the tokens as they were drawn, 0 outside the mask."""


class KeyedGumbel(LogitsProcessor):
    """Turns the arg max that generation takes into a draw from softmax(logits / temperature), keyed by row."""

    def __init__(self, keys: Tensor, prompt_length: int, temperature: float) -> None:
        """keys: [batch] int64 from `sampling.row_keys`."""
        self._keys = keys
        self._prompt_length = prompt_length
        self._temperature = temperature
        self.logprobs: list[Tensor] = []
        """By position, [batch] float32: of what was drawn. A row that has ended gets padding instead of its draw."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: [batch, tokens so far]; scores: [batch, vocabulary]. Returns [batch, vocabulary] float32."""
        position = input_ids.shape[1] - self._prompt_length
        scaled = scores.float() / self._temperature
        noised = scaled + gumbel_noise(self._keys, position, scores.shape[1])
        drawn = noised.argmax(dim=-1, keepdim=True)
        self.logprobs.append(scaled.gather(1, drawn).squeeze(1) - torch.logsumexp(scaled, dim=-1))
        return noised


class StopTexts(StoppingCriteria):
    """Ends a row once its response holds a stop text. What the prompt ends with is no part of it."""

    def __init__(self, stop: Sequence[str], tokenizer: Any, prompt_length: int) -> None:
        self._stop = stop
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        # A character has at most four tokens (one per byte).
        self._tail = 4 * max(len(text) for text in stop) + 4

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: Any) -> Tensor:
        """input_ids: [batch, tokens so far]. Returns [batch] bool: the row is done."""
        rows = input_ids[:, self._prompt_length :].tolist()
        return torch.tensor([self._ended(row) for row in rows], dtype=torch.bool, device=input_ids.device)

    def _ended(self, row: list[int]) -> bool:
        # The tail is cheap to look at; the whole response decides, as it does once it is finished.
        return self._holds(row[-self._tail :]) and self._holds(row)

    def _holds(self, tokens: list[int]) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(stop in text for stop in self._stop)


def pad_prompts(
    prompts: Sequence[Sequence[int]], length: int, pad_token: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Left-pad prompts to `length` tokens. Returns tokens and mask, both [batch, length] int64."""
    tokens = torch.full((len(prompts), length), pad_token, dtype=torch.int64)
    mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.int64)
        mask[row, length - len(prompt) :] = 1
    return tokens.to(device), mask.to(device)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Tensor,
    settings: SamplingSettings,
    tokenizer: Any,
    rows_at_once: int,
    beat: Callable[[], None] = lambda: None,
) -> Responses:
    """Draw one response per prompt.

    prompts: token ids; keys: [batch] int64. `beat` is called after each part, for the watchdog. The responses are
    padded to `settings.max_tokens`, so the shape depends on nothing that was drawn.
    """
    parts = []
    for start in range(0, len(prompts), rows_at_once):
        chosen = slice(start, start + rows_at_once)
        parts.append(_sample_part(model, prompts[chosen], keys[chosen], settings, tokenizer))
        beat()
    give_back(model.device)
    tokens, logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    return _finish(tokens, logprobs, settings, tokenizer)


def _sample_part(
    model: Any, prompts: Sequence[Sequence[int]], keys: Tensor, settings: SamplingSettings, tokenizer: Any
) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities, both [rows, max_tokens]."""
    length = max(len(prompt) for prompt in prompts)
    tokens, mask = pad_prompts(prompts, length, settings.pad_token, model.device)
    # Every field is ours: the model's own generation config was replaced when it was loaded.
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=settings.max_tokens,
        eos_token_id=settings.end_tokens,
        pad_token_id=settings.pad_token,
        use_cache=True,
    )
    noise = KeyedGumbel(keys.to(model.device), length, settings.temperature)
    stops = StoppingCriteriaList([StopTexts(settings.stop, tokenizer, length)] if settings.stop else [])
    found: Tensor = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        generation_config=config,
        logits_processor=LogitsProcessorList([noise]),
        stopping_criteria=stops,
    )
    response = found[:, length:]
    missing = (0, settings.max_tokens - response.shape[1])
    tokens = torch.nn.functional.pad(response, missing, value=settings.pad_token)
    return tokens, torch.nn.functional.pad(torch.stack(noise.logprobs, dim=1), missing)


def _finish(tokens: Tensor, logprobs: Tensor, settings: SamplingSettings, tokenizer: Any) -> Responses:
    """Find where each response ended. The padding token may be an end token, so the first end token counts."""
    ends = torch.isin(tokens, torch.tensor(settings.end_tokens, device=tokens.device))
    places = torch.arange(tokens.shape[1], device=tokens.device)
    first_end = torch.where(ends, places, tokens.shape[1]).amin(dim=1)
    if settings.stop:
        stops = torch.tensor(
            [_stop_place(row, settings.stop, tokenizer) for row in tokens.tolist()], device=tokens.device
        )
        first_end = torch.minimum(first_end, stops)
    mask = (places.unsqueeze(0) <= first_end.unsqueeze(1)).float()
    return Responses(tokens=tokens, mask=mask, finished=first_end < tokens.shape[1], logprobs=logprobs * mask)


def _stop_place(row: list[int], stop: Sequence[str], tokenizer: Any) -> int:
    """The place of the token that completes a stop text, or the row's length when none does."""
    if not any(text in tokenizer.decode(row) for text in stop):
        return len(row)
    return next(place for place in range(len(row)) if any(text in tokenizer.decode(row[: place + 1]) for text in stop))


def texts_of(responses: Responses, tokenizer: Any, stop: Sequence[str] = ()) -> list[str]:
    """The responses as text: without special tokens, and cut where a stop text begins."""
    found = []
    for row, mask in zip(responses.tokens.tolist(), responses.mask.sum(dim=1).long().tolist(), strict=True):
        text = tokenizer.decode(row[:mask], skip_special_tokens=True)
        places = [text.find(end) for end in stop if end in text]
        found.append(text[: min(places)] if places else text)
    return found
