"""Policies measured on the evaluation set by all ranks together. What a measurement is, is in evaluate.py."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_operator.api.evaluation import Baseline
from rlhf_operator.api.plan import PlanSuite
from rlhf_trainer import evaluate
from rlhf_trainer.algorithms.batch import model_inputs
from rlhf_trainer.algorithms.ppo import kl_k1
from rlhf_trainer.data import EVALUATION, Prepared, PreparedRow, suite_folder
from rlhf_trainer.evaluate import Answer, Generate
from rlhf_trainer.pace import Pace
from rlhf_trainer.policy.generation import MICRO_BATCHES_AT_ONCE, Responses, pad_prompts, sample, texts_of
from rlhf_trainer.policy.heads import PolicyModel
from rlhf_trainer.sampling import row_keys

from .attempt import Attempt, Whole


class Measuring:
    """The measurements of one run."""

    def __init__(self, attempt: Attempt, sets: Mapping[str, Prepared]) -> None:
        """Take the plan's data sets; without an evaluation set among them nothing is measured."""
        self._attempt = attempt
        self._sets = sets
        self._seconds: float | None = None
        """How long the newest measurement took."""

    def wants(self, subject: str) -> bool:
        """Whether the plan compares with this baseline; suites and slices always do with the base model."""
        evaluation = self._attempt.plan.evaluation
        return evaluation is not None and (subject == Baseline.BASE or subject in evaluation.baselines)

    def pace(self, pace: Pace) -> None:
        """Say what measuring will add to the time of a run."""
        evaluation = self._attempt.plan.evaluation
        if evaluation is not None:
            pace.evaluate_every, pace.evaluates_last = evaluation.every_steps, True
            if self._seconds is not None:
                pace.evaluation_took(self._seconds)

    @property
    def prompts(self) -> Prepared | None:
        """The evaluation set."""
        return self._sets.get(EVALUATION)

    def baseline(self, subject: str, path: Path) -> None:
        """Measure a baseline once, before anything is trained on top of it; the base model on the suites, too."""
        if not self.wants(subject):
            return

        def generate(rows: Sequence[PreparedRow], seeds: Sequence[int]) -> list[Answer]:
            attempt = self._attempt
            module = attempt.models.policy(path, attempt.sampling.temperature).to(attempt.group.device)
            return self.generate(module, rows, seeds)

        self._measure(subject, generate)
        if subject == Baseline.BASE:
            self._suites(subject, generate)

    def policy(self, whole: Whole, version: str, reference: Callable[..., Any] | None = None) -> None:
        """Measure the trained policy, and its KL where there is a reference model."""
        if self._attempt.plan.evaluation is None:
            return
        self._measure(evaluate.POLICY, self._generating(whole, reference), version)
        self._suites(evaluate.POLICY, self._generating(whole), version)

    def between(self, step: int, steps: int, whole: Whole) -> None:
        """Measure the policy behind a step, where the plan asks for it; the last step is measured in the end."""
        evaluation, reporter = self._attempt.plan.evaluation, self._attempt.reporter
        if evaluation is None or evaluation.every_steps is None or step == steps or step % evaluation.every_steps:
            return
        subject = f"{evaluate.POLICY}@{step}"
        self._measure(subject, self._generating(whole), f"step {step}")
        if reporter is not None:
            means = evaluate.means(self._attempt.plan, self._attempt.workspace.root, subject)
            reporter.evaluated(step, means)

    def generate(
        self,
        module: PolicyModel,
        rows: Sequence[PreparedRow],
        seeds: Sequence[int],
        reference: Callable[..., Any] | None = None,
    ) -> list[Answer]:
        """Answers to evaluation rows: each rank samples its part, and every rank gets all of them."""
        attempt, sampling = self._attempt, self._attempt.sampling
        world, rank = attempt.group.world_size, attempt.group.rank
        mine = range(rank * len(rows) // world, (rank + 1) * len(rows) // world)
        prompts = [list(rows[place].prompt_ids) for place in mine]
        texts: list[str] = []
        responses = None
        if len(mine):
            keys = row_keys(0, "evaluation", 0, torch.tensor([seeds[place] for place in mine], dtype=torch.int64))
            responses = sample(
                module.model,
                prompts,
                keys.to(attempt.group.device),
                sampling,
                attempt.tokenizer,
                attempt.options.micro_batch_size * MICRO_BATCHES_AT_ONCE,
                attempt.beat,
            )
            texts = texts_of(responses, attempt.tokenizer, sampling.stop)
        kls: list[float | None] = [None] * len(texts)
        if reference is not None:
            kls = [*self._kl(module, reference, prompts, responses)]
        answers = [Answer(text, kl) for text, kl in zip(texts, kls, strict=True)]
        return attempt.group.gather_list(answers, "the gathering of evaluation texts")

    @torch.no_grad()
    def _kl(
        self, module: PolicyModel, reference: Callable[..., Any], prompts: list[list[int]], responses: Responses | None
    ) -> list[float]:
        """KL to the reference model of each of this rank's responses (k1, nats).

        The reference may be partitioned: every rank makes as many calls as the one with most rows, some on padding.
        """
        attempt = self._attempt
        pad, device, micro = attempt.sampling.pad_token, attempt.group.device, attempt.options.micro_batch_size
        found: list[float] = []
        for start in range(0, attempt.group.maximum(len(prompts), "the rows of an evaluation"), micro):
            part = slice(start, start + micro)
            there = prompts[part]
            tokens, prompt_mask = pad_prompts(there or [[pad]], max(map(len, there), default=1), pad, device)
            answer, mask = torch.full((1, 1), pad, device=device), torch.zeros((1, 1), device=device)
            if there and responses is not None:
                answer, mask = responses.tokens[part], responses.mask[part]
            inputs = model_inputs(tokens, prompt_mask, answer, mask)
            kl = kl_k1(module(*inputs)[0], reference(*inputs)[0], mask)
            found += kl.tolist()[: len(there)]
            attempt.beat()
        return found

    def _generating(self, whole: Whole, reference: Callable[..., Any] | None = None) -> Generate:
        def generate(rows: Sequence[PreparedRow], seeds: Sequence[int]) -> list[Answer]:
            with whole() as module:
                return self.generate(module, rows, seeds, reference)

        return generate

    def _suites(self, subject: str, generate: Generate, version: str = "") -> None:
        assert self._attempt.plan.evaluation is not None
        for suite in self._attempt.plan.evaluation.suites or []:
            self._measure(subject, generate, version, suite)

    def _measure(self, subject: str, generate: Generate, version: str = "", suite: PlanSuite | None = None) -> None:
        attempt, group = self._attempt, self._attempt.group
        part, name = ("", EVALUATION) if suite is None else (suite_folder(suite.name),) * 2
        have = group.is_main and evaluate.exists(attempt.workspace.root, subject, version, part)
        if group.broadcast(have, "the look for a measurement"):
            return
        started = time.monotonic()
        evaluate.measure(
            subject,
            self._sets[name],
            generate,
            attempt.scorers if group.is_main else None,
            plan=attempt.plan,
            workspace=attempt.workspace.root,
            write=group.is_main,
            version=version,
            have=False,
            suite=suite,
            before_rename=attempt.workspace.check,
        )
        group.barrier(f"the measurement of {subject}")
        self._seconds = time.monotonic() - started
        attempt.beat()
