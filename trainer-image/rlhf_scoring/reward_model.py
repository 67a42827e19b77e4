"""A trained reward model, read from a directory: nothing is fetched, no code of its own is run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_operator.api.plan import PlanRewardModel
from rlhf_operator.api.scorerfile import TOTAL

from .encode import Encoded, Encoder, default_format, load_input_format, pad_token, takes_token_types
from .errors import ScorerConfigError
from .judge import Judgement, Row, digest_of, version_digest
from .tree import digest_tree
from .version import Scores, calibration_of, check_model_files

_BATCH = 16


class RewardScorer:
    """A reward model with all its dimensions: raw logits (no activation) over the stored temperatures."""

    def __init__(self, name: str, directory: Path, device: str | None = None) -> None:
        """Load the model. Raises ScorerConfigError when the directory does not hold one that can be used.

        name: what messages call it. device: where it runs; None: the process's GPU at the time of the first score, or
        the CPU without one.
        """
        try:
            check_model_files(directory)
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            network = AutoModelForSequenceClassification.from_pretrained(
                directory, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
            stored = load_input_format(directory)
            self.calibration = calibration_of(directory, config)
        except (OSError, ValueError, SafetensorError) as error:
            raise ScorerConfigError(name, f"the reward model in {directory} can't be loaded: {error}") from error
        if not getattr(tokenizer, "is_fast", False):
            raise ScorerConfigError(name, f"the tokenizer in {directory} has no tokenizer.json: save it as a fast one")
        self.input_format = stored or default_format(config, tokenizer)
        self._encoder = Encoder(tokenizer, self.input_format)
        self._pad = pad_token(tokenizer)
        network.config.pad_token_id = self._pad
        self._network = network.eval()
        self._types = takes_token_types(config, self.input_format)
        self._device: str | None = device
        self._placed = False

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The heads' names, in order."""
        return self.calibration.dimensions

    def encode(self, prompt: str, response: str) -> Encoded:
        """The model's input for one prompt and response."""
        return self._encoder.encode(prompt, response)

    def logits(
        self, prompts: Sequence[str], responses: Sequence[str], beat: Callable[[], None] = lambda: None
    ) -> list[list[float]]:
        """Raw outputs by text and head; the longest go first, so that a batch that is too large fails at once."""
        self._place()
        inputs = [self.encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index].input_ids))
        found: list[list[float]] = [[] for _ in inputs]
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for index, row in zip(batch, self._forward([inputs[index] for index in batch]).tolist(), strict=True):
                found[index] = row
            beat()
        return found

    def scores(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Scores]:
        """Calibrated scores of every text."""
        return [self.calibration.scores(row) for row in self.logits(prompts, responses)]

    def close(self) -> None:
        """Free the weights."""
        del self._network

    def _place(self) -> None:
        # Scorers are built before a rank has chosen its GPU.
        if not self._placed:
            self._device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._network = self._network.to(self._device)
            self._placed = True

    @torch.inference_mode()
    def _forward(self, batch: list[Encoded]) -> Tensor:
        """Logits: [batch, heads] float32 on the CPU."""
        inputs = {name: value.to(self._device) for name, value in padded(batch, self._pad, self._types).items()}
        logits: Tensor = self._network(**inputs).logits
        return logits.float().cpu()


def padded(batch: Sequence[Encoded], pad: int, token_types: bool) -> dict[str, Tensor]:
    """A batch as the model takes it, padded on the right: [batch, longest]."""
    width = max(len(item.input_ids) for item in batch)
    ids = torch.full((len(batch), width), pad, dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    types = torch.zeros((len(batch), width), dtype=torch.long)
    for at, item in enumerate(batch):
        length = len(item.input_ids)
        ids[at, :length] = torch.tensor(item.input_ids)
        mask[at, :length] = 1
        types[at, :length] = torch.tensor(item.token_type_ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "token_type_ids": types} if token_types else inputs


class RewardModel:
    """A judge that gives one dimension of a reward model, or the mean over them."""

    def __init__(self, scorer: str, model: PlanRewardModel, device: str | None = None) -> None:
        """Load the model. Raises ScorerConfigError when the directory does not hold one that can be used."""
        directory = Path(str(model.path))
        self._scorer = RewardScorer(scorer, directory, device)
        self._dimension = _dimension(scorer, self._scorer.dimensions, model.dimension)
        self.input_format = self._scorer.input_format
        content = digest_of(digest_tree(directory), self.input_format.dump()) if model.version is None else ""
        self.digest = (
            version_digest(model.version, model.dimension)
            if model.version
            else digest_of("reward-model/1", content, model.dimension)
        )

    def encode(self, prompt: str, response: str) -> Encoded:
        """The model's input for one prompt and response."""
        return self._scorer.encode(prompt, response)

    def judge(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[Judgement]:
        """Score every response."""
        return [scores.of(self._dimension) for scores in self._scorer.scores(prompts, responses)]

    def close(self) -> None:
        """Free the weights."""
        self._scorer.close()


def _dimension(scorer: str, heads: tuple[str, ...], wanted: str) -> str:
    """The dimension to give; the only head needs no name."""
    if wanted in heads or wanted == TOTAL:
        return wanted
    if len(heads) == 1:
        return heads[0]
    raise ScorerConfigError(scorer, f"the reward model has no head {wanted!r}; its heads are {', '.join(heads)}")
