"""How a reward model reads a prompt and a response: the one encoding that training, evaluation, PPO and judge share."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model

INPUT_FORMAT_FILE = "rlhf-input.json"
_FILE_BYTES = 64 * 1024


class InputKind(StrEnum):
    """How prompt and response become one input."""

    PAIR = "Pair"
    """The tokenizer's own pair encoding, with token types where the model has them: encoders."""
    CONCATENATION = "Concatenation"
    """Prompt, separator, response and the end token in one text: decoders."""


class InputFormat(Model):
    """A reward model's input format; stored beside its weights."""

    kind: InputKind
    """Pair or Concatenation."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest input, in tokens: the prompt gives way first, from its left; then the response, from its right."""
    separator: str = "\n\n"
    """Text between prompt and response of a Concatenation."""


class Encoded(NamedTuple):
    """One model input, unpadded; token types are all 0 for a Concatenation."""

    input_ids: list[int]
    token_type_ids: list[int]
    prompt_tokens_cut: int
    response_tokens_cut: int


def load_input_format(directory: Path) -> InputFormat | None:
    """The format stored with a model; None when there is none. Raises ValueError for one that can't be read."""
    path = directory / INPUT_FORMAT_FILE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(_FILE_BYTES + 1)
    if len(data) > _FILE_BYTES:
        raise ValueError(f"{INPUT_FORMAT_FILE} is larger than {_FILE_BYTES} bytes")
    try:
        return InputFormat.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"{INPUT_FORMAT_FILE} is not an input format: {error.errors()[0]['msg']}") from error


def store_input_format(directory: Path, input_format: InputFormat) -> None:
    """Write the format beside the model's weights."""
    (directory / INPUT_FORMAT_FILE).write_text(input_format.model_dump_json(by_alias=True, indent=2) + "\n")


class Encoder:
    """Encodes (prompt, response) with one tokenizer by one format."""

    def __init__(self, tokenizer: Any, input_format: InputFormat) -> None:
        self._tokenizer = tokenizer
        self._format = input_format
        if input_format.kind is InputKind.PAIR:
            self._special = int(tokenizer.num_special_tokens_to_add(pair=True))
            self._separator: list[int] = []
        else:
            self._separator = self._ids(input_format.separator) if input_format.separator else []
            start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
            end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
            self._start, self._end = start, end
            self._special = len(start) + len(self._separator) + len(end)

    def encode(self, prompt: str, response: str) -> Encoded:
        """Return the one input for this prompt and response."""
        room = self._format.max_length - self._special
        prompt_ids, response_ids = self._ids(prompt), self._ids(response)
        kept_response = response_ids[:room]
        space = room - len(kept_response)
        kept_prompt = prompt_ids[len(prompt_ids) - space :] if len(prompt_ids) > space else prompt_ids
        cut = (len(prompt_ids) - len(kept_prompt), len(response_ids) - len(kept_response))
        if self._format.kind is InputKind.CONCATENATION:
            ids = [*self._start, *kept_prompt, *self._separator, *kept_response, *self._end]
            return Encoded(ids, [0] * len(ids), *cut)
        if not any(cut):
            # Token types are the tokenizer's to say, and it says them for texts.
            return self._pair(prompt, response, cut)
        return self._pair(self._text(prompt, cut[0], None), self._text(response, 0, len(kept_response)), cut)

    def _pair(self, prompt: str, response: str, cut: tuple[int, int]) -> Encoded:
        # As a batch of one: given two plain texts, the tokenizer takes an empty response for no response at all, and
        # leaves its separator out.
        built = self._tokenizer(
            [prompt],
            [response],
            add_special_tokens=True,
            return_token_type_ids=True,
            # A text cut inside a word may come out a token longer.
            truncation="longest_first",
            max_length=self._format.max_length,
        )
        return Encoded(list(built["input_ids"][0]), list(built["token_type_ids"][0]), *cut)

    def _text(self, text: str, first: int, last: int | None) -> str:
        """The part of a text that its tokens first..last cover."""
        spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][
            first:last
        ]
        return text[spans[0][0] : spans[-1][1]] if spans else ""

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def default_format(config: Any, tokenizer: Any) -> InputFormat:
    """The format of a model that came without one: a pair for encoders, a concatenation for decoders."""
    encoder = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    limit = min(int(getattr(config, "max_position_embeddings", None) or 1024), 1024)
    return InputFormat(kind=InputKind.PAIR if encoder else InputKind.CONCATENATION, max_length=limit)


def takes_token_types(config: Any, input_format: InputFormat) -> bool:
    """Whether the model tells prompt and response apart by token types, too."""
    return input_format.kind is InputKind.PAIR and getattr(config, "type_vocab_size", 0) > 1


def pad_token(tokenizer: Any) -> int:
    """The id to pad with. Where it is the end token, the model reads its score before the end: the same for all."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def without_end_padding(ids: Sequence[int], pad: int) -> list[int]:
    """A decoder's input up to the token that its score is read from: the last one that is not padding.

    For an engine that always reads the last token; at least one token stays.
    """
    end = len(ids)
    while end > 1 and ids[end - 1] == pad:
        end -= 1
    return list(ids[:end])
