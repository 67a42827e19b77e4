"""Policies measured on the evaluation set by all ranks together. What a measurement is, is in evaluate.py."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rlhf_operator.api.evaluation import Baseline
from rlhf_trainer import evaluate
from rlhf_trainer.data import Prepared, PreparedRow
from rlhf_trainer.policy.generation import MICRO_BATCHES_AT_ONCE, sample, texts_of
from rlhf_trainer.policy.heads import PolicyModel
from rlhf_trainer.sampling import row_keys

from .attempt import Attempt, Whole


class Measuring:
    """The measurements of one run."""

    def __init__(self, attempt: Attempt, rows: Prepared | None) -> None:
        """Take the evaluation set; None where the plan has none, and then nothing is measured."""
        self._attempt = attempt
        self._rows = rows

    @property
    def prompts(self) -> Prepared | None:
        """The evaluation set."""
        return self._rows

    def baseline(self, subject: str, path: Path) -> None:
        """Measure a baseline once, before anything is trained on top of it."""
        evaluation = self._attempt.plan.evaluation
        if evaluation is None or (subject != Baseline.BASE and subject not in evaluation.baselines):
            return

        def generate(rows: Sequence[PreparedRow], seeds: Sequence[int]) -> list[str]:
            attempt = self._attempt
            module = attempt.models.policy(path, attempt.sampling.temperature).to(attempt.group.device)
            return self.generate(module, rows, seeds)

        self._measure(subject, generate)

    def policy(self, whole: Whole, version: str) -> None:
        """Measure the trained policy."""
        if self._attempt.plan.evaluation is not None:
            self._measure_whole(evaluate.POLICY, whole, version)

    def between(self, step: int, steps: int, whole: Whole) -> None:
        """Measure the policy behind a step, where the plan asks for it; the last step is measured in the end."""
        evaluation, reporter = self._attempt.plan.evaluation, self._attempt.reporter
        if evaluation is None or evaluation.every_steps is None or step == steps or step % evaluation.every_steps:
            return
        subject = f"{evaluate.POLICY}@{step}"
        self._measure_whole(subject, whole, f"step {step}")
        if reporter is not None:
            means = evaluate.means(self._attempt.plan, self._attempt.workspace.root, subject)
            reporter.evaluated(step, means)

    def generate(self, module: PolicyModel, rows: Sequence[PreparedRow], seeds: Sequence[int]) -> list[str]:
        """Texts for evaluation rows: each rank samples its part, and every rank gets all of them."""
        attempt, sampling = self._attempt, self._attempt.sampling
        world, rank = attempt.group.world_size, attempt.group.rank
        mine = range(rank * len(rows) // world, (rank + 1) * len(rows) // world)
        texts: list[str] = []
        if len(mine):
            keys = row_keys(0, "evaluation", 0, torch.tensor([seeds[place] for place in mine], dtype=torch.int64))
            responses = sample(
                module.model,
                [list(rows[place].prompt_ids) for place in mine],
                keys.to(attempt.group.device),
                sampling,
                attempt.tokenizer,
                attempt.options.micro_batch_size * MICRO_BATCHES_AT_ONCE,
                attempt.beat,
            )
            texts = texts_of(responses, attempt.tokenizer, sampling.stop)
        return attempt.group.gather_list(texts, "the gathering of evaluation texts")

    def _measure_whole(self, subject: str, whole: Whole, version: str) -> None:
        def generate(rows: Sequence[PreparedRow], seeds: Sequence[int]) -> list[str]:
            with whole() as module:
                return self.generate(module, rows, seeds)

        self._measure(subject, generate, version)

    def _measure(
        self, subject: str, generate: Callable[[Sequence[PreparedRow], Sequence[int]], list[str]], version: str = ""
    ) -> None:
        assert self._rows is not None
        attempt, group = self._attempt, self._attempt.group
        have = group.is_main and evaluate.exists(attempt.workspace.root, subject, version)
        if group.broadcast(have, "the look for a measurement"):
            return
        evaluate.measure(
            subject,
            self._rows,
            generate,
            attempt.scorers if group.is_main else None,
            plan=attempt.plan,
            workspace=attempt.workspace.root,
            write=group.is_main,
            version=version,
            have=False,
            before_rename=attempt.workspace.check,
        )
        group.barrier(f"the measurement of {subject}")
        attempt.beat()
