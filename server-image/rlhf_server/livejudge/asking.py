"""Asks one scorer for verdicts on answers and pairs. Blocking: each scorer has a thread of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_operator.api.signals import LiveSample, LiveScorer, Purpose
from rlhf_scoring.build import build_scorers
from rlhf_scoring.judge import ROW_NUMBER, TURNS, Categorizer, Comparer, Judge, Missing, Reachable, Row, Verdict
from rlhf_scoring.remote import RemoteRewardModel
from rlhf_scoring.scorers import Scorers

from .pairing import Pair


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """How a pair ended: the shadow's share of the win, and the two scores when the judge gives some."""

    shadow_wins: float
    """1: the shadow's answer is better, 0: the live one, 0.5: neither."""
    live_score: float | None = None
    shadow_score: float | None = None


Work = LiveSample | Pair
Found = Verdict | PairVerdict | Missing


class Asker:
    """One scorer of the plan, built."""

    def __init__(self, scorer: LiveScorer, ask_seconds: float) -> None:
        """Build it and ask whether it answers. Raises ScorerConfigError, JudgeAway."""
        self._scorer = scorer
        self._scorers: Scorers = build_scorers([scorer], deadline_seconds=ask_seconds)
        self._judge: Judge = self._scorers.judge(scorer.name)
        try:
            self.check()
            self.version = self._version()
        except BaseException:
            self._scorers.close()
            raise

    def check(self) -> None:
        """Ask whether it answers. Raises ScorerConfigError, JudgeAway."""
        if isinstance(self._judge, Reachable):
            self._judge.check()

    def close(self) -> None:
        """End helper processes and connections."""
        self._scorers.close()

    def ask(self, works: Sequence[Work]) -> list[Found]:
        """One verdict each, in order. Raises ScorerConfigError when the scorer is not what the plan says."""
        pairs = [work for work in works if isinstance(work, Pair)]
        samples = [work for work in works if not isinstance(work, Pair)]
        of_pairs = iter(self._pairs(pairs) if pairs else [])
        of_samples = iter(self._samples(samples) if samples else [])
        return [next(of_pairs) if isinstance(work, Pair) else next(of_samples) for work in works]

    def _row(self, sample: LiveSample, number: int) -> Row:
        row: Row = {**sample.row, ROW_NUMBER: number}
        if not isinstance(self._judge, Categorizer):
            return row
        # Only guard models read turns; to others they would be the prompt once more.
        return {**row, TURNS: [turn.model_dump() for turn in sample.messages]}

    def _version(self) -> str:
        if isinstance(self._judge, RemoteRewardModel) and self._judge.version is not None:
            return self._judge.version
        return self._judge.digest

    def _pairs(self, pairs: Sequence[Pair]) -> list[Found]:
        if isinstance(self._judge, Comparer):
            shares = self._judge.compare(
                [pair.live.prompt for pair in pairs],
                [pair.shadow.answer for pair in pairs],
                [pair.live.answer for pair in pairs],
                [self._row(pair.live, number) for number, pair in enumerate(pairs, start=1)],
            )
            return [share if isinstance(share, Missing) else PairVerdict(share) for share in shares]
        # A score is of one answer by itself: no order in which it could matter which is which.
        scores = self._samples([half for pair in pairs for half in (pair.live, pair.shadow)])
        return [
            compare(live, shadow, self._scorer.tie_margin)
            for live, shadow in zip(scores[::2], scores[1::2], strict=True)
        ]

    def _samples(self, samples: Sequence[LiveSample]) -> list[Verdict | Missing]:
        prompts, answers = [sample.prompt for sample in samples], [sample.answer for sample in samples]
        rows = [self._row(sample, number) for number, sample in enumerate(samples, start=1)]
        if isinstance(self._judge, Categorizer):
            return self._judge.verdicts(prompts, answers, rows)
        return [_verdict(score) for score in self._judge.judge(prompts, answers, rows)]


def compare(live: Verdict | Missing, shadow: Verdict | Missing, tie_margin: float) -> PairVerdict | Missing:
    """Who of two scored answers is better; scores no further apart than the margin are a tie."""
    if isinstance(live, Missing):
        return live
    if isinstance(shadow, Missing):
        return shadow
    ahead = shadow.score - live.score
    share = 0.5 if abs(ahead) <= tie_margin else float(ahead > 0)
    return PairVerdict(share, live.score, shadow.score)


def reads_pairs(scorer: LiveScorer) -> bool:
    """Whether the scorer judges pairs rather than single answers."""
    return scorer.purpose is Purpose.WIN_RATE


def _verdict(score: float | Missing) -> Verdict | Missing:
    if isinstance(score, Missing):
        # The reason may quote the text, and goes to a log.
        return Missing("the grader failed", timed_out=score.timed_out) if score.failed else score
    return Verdict(score) if math.isfinite(score) else Missing("the score is not a number")
