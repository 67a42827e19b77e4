"""A trained reward model as a judge, read from a directory: nothing is fetched, no code of its own is run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_operator.api.plan import PlanRewardModel

from .encode import Encoded, Encoder, InputFormat, InputKind, load_input_format
from .errors import ScorerConfigError
from .judge import Judgement, Row, digest_of
from .tree import digest_tree

_BATCH = 16
_CONFIG_BYTES = 1024 * 1024


class RewardModel:
    """Scores with one head of a reward model: the raw logit, no activation."""

    def __init__(self, scorer: str, model: PlanRewardModel, device: str | None = None) -> None:
        """Load the model. Raises ScorerConfigError when the directory does not hold one that can be used.

        device: where it runs; None: the process's GPU at the time of the first score, or the CPU without one.
        """
        directory = Path(str(model.path))
        _refuse_foreign_code(scorer, directory)
        try:
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            network = AutoModelForSequenceClassification.from_pretrained(
                directory, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
            stored = load_input_format(directory)
        except (OSError, ValueError, SafetensorError) as error:
            raise ScorerConfigError(scorer, f"the reward model in {directory} can't be loaded: {error}") from error
        self._head = _head(scorer, config, model.dimension)
        if not getattr(tokenizer, "is_fast", False):
            raise ScorerConfigError(
                scorer, f"the tokenizer in {directory} has no tokenizer.json: save it as a fast one"
            )
        self.input_format = stored or default_format(config, tokenizer)
        self._encoder = Encoder(tokenizer, self.input_format)
        self._pad = _pad_token(tokenizer)
        network.config.pad_token_id = self._pad
        self._network = network.eval()
        self._types = self.input_format.kind is InputKind.PAIR and getattr(config, "type_vocab_size", 0) > 1
        self._wanted, self._device = device, "cpu"
        self._placed = False
        content = model.version or digest_tree(directory)
        self.digest = digest_of("reward-model/1", content, self.input_format.dump(), model.dimension)

    def encode(self, prompt: str, response: str) -> Encoded:
        """The model's input for one prompt and response."""
        return self._encoder.encode(prompt, response)

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Score every response; the longest go first, so that a batch that is too large fails at once."""
        self._place()
        inputs = [self.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index].input_ids))
        scores: list[Judgement] = [0.0] * len(inputs)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for index, score in zip(batch, self._scores([inputs[index] for index in batch]), strict=True):
                scores[index] = score
        return scores

    def close(self) -> None:
        """Free the weights."""
        del self._network

    def _place(self) -> None:
        # Scorers are built before a rank has chosen its GPU.
        if not self._placed:
            self._device = self._wanted or ("cuda" if torch.cuda.is_available() else "cpu")
            self._network = self._network.to(self._device)
            self._placed = True

    @torch.inference_mode()
    def _scores(self, batch: list[Encoded]) -> list[float]:
        """Logits of one head: [batch]."""
        width = max(len(item.input_ids) for item in batch)
        ids = torch.full((len(batch), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        types = torch.zeros((len(batch), width), dtype=torch.long)
        for at, item in enumerate(batch):
            length = len(item.input_ids)
            ids[at, :length] = torch.tensor(item.input_ids)
            mask[at, :length] = 1
            types[at, :length] = torch.tensor(item.token_type_ids)
        inputs = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        if self._types:
            inputs["token_type_ids"] = types.to(self._device)
        logits = self._network(**inputs).logits[:, self._head].float().cpu()
        return [float(score) for score in logits]


def default_format(config: Any, tokenizer: Any) -> InputFormat:
    """The format of a model that came without one: a pair for encoders, a concatenation for decoders."""
    encoder = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    limit = min(int(getattr(config, "max_position_embeddings", None) or 1024), 1024)
    return InputFormat(kind=InputKind.PAIR if encoder else InputKind.CONCATENATION, max_length=limit)


def _refuse_foreign_code(scorer: str, directory: Path) -> None:
    path = directory / "config.json"
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise ScorerConfigError(scorer, f"{path} can't be read: {error}") from error
    if not isinstance(config, dict) or "auto_map" in config:
        raise ScorerConfigError(scorer, f"{path} asks for code of its own (auto_map), which is never run: remove it")


def _head(scorer: str, config: Any, dimension: str) -> int:
    """Index of the dimension's head; the only head needs no name."""
    heads = {str(name): int(index) for index, name in config.id2label.items()}
    if dimension in heads:
        return heads[dimension]
    if config.num_labels == 1:
        return 0
    raise ScorerConfigError(scorer, f"the reward model has no head {dimension!r}; its heads are {', '.join(heads)}")


def _pad_token(tokenizer: Any) -> int:
    """The id to pad with. Where it is the end token, the model reads its score before the end: the same for all."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
