"""Overlap with a reference text: ROUGE, BLEU and chrF on a scale of 0 to 1, capped."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import regex
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from rlhf_operator.api.shared import OverlapGrader, OverlapMetric
from rlhf_scoring.judge import Judgement, Missing, Row, TextGrader, digest_of, text_column

_WORD = regex.compile(r"\w+")
_MAX_WORDS = 1_000
_MAX_CHARACTERS = 10_000


class _Metric(Protocol):
    library: str

    def overlap(self, response: str, reference: str) -> float: ...


class Overlap(TextGrader):
    """min(overlap, cap): what lies beyond the cap earns nothing, so that copying does not pay."""

    def __init__(self, config: OverlapGrader) -> None:
        metric = _METRICS[config.metric]()
        super().__init__(digest_of("overlap/1", config.dump(), metric.library, version(metric.library)))
        self._metric = metric
        self._column = config.reference_column
        self._cap = config.cap

    def grade(self, response: str, row: Row) -> Judgement:
        """Compare with the row's reference; a row without one has no score, an empty response scores 0."""
        reference = text_column(row, self._column)
        if isinstance(reference, Missing):
            return reference
        if not response.strip():
            return 0.0
        return min(self._metric.overlap(response[:_MAX_CHARACTERS], reference[:_MAX_CHARACTERS]), self._cap)


class _Words:
    """Words in any script: the library's own tokenizer keeps a-z and 0-9 only, and scores all else 0."""

    def tokenize(self, text: str) -> list[str]:
        # The longest common subsequence takes time by the product of both lengths.
        return _WORD.findall(text.casefold())[:_MAX_WORDS]


class _Rouge:
    library = "rouge-score"

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._scorer = RougeScorer([kind], tokenizer=_Words())

    def overlap(self, response: str, reference: str) -> float:
        return float(self._scorer.score(reference, response)[self._kind].fmeasure)


class _Sacrebleu:
    library = "sacrebleu"

    def __init__(self, metric: BLEU | CHRF) -> None:
        self._metric = metric

    def overlap(self, response: str, reference: str) -> float:
        return float(self._metric.sentence_score(response, [reference]).score) / 100.0


_METRICS: dict[OverlapMetric, Callable[[], _Metric]] = {
    OverlapMetric.ROUGE_L: lambda: _Rouge("rougeL"),
    OverlapMetric.ROUGE_1: lambda: _Rouge("rouge1"),
    # Without the effective order, a response shorter than four words would score 0 whatever it says.
    OverlapMetric.BLEU: lambda: _Sacrebleu(BLEU(effective_order=True)),
    OverlapMetric.CHRF: lambda: _Sacrebleu(CHRF()),
}
