"""A run on one rank: data, baseline, warm start, the algorithm, evaluation, result. Every rank does the same."""

import gc
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_operator.api.evaluation import Baseline
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import MAX_FIGURES, Result

from . import data, evaluate
from .algorithms.ppo_trainer import PPOTrainer
from .algorithms.rollout import RolloutWorker
from .algorithms.sft import SFTTrainer
from .base import check_base
from .checkpoint import POLICY_FOLDER, Checkpoint, CheckpointStore
from .distributed import Group
from .fencing import RESULT_FILE, Workspace
from .files import digest_tree
from .guards import Guards
from .journal import Journal
from .loop import Loop
from .models import ModelFactory, torch_settings
from .options import RunOptions
from .policy.generation import MICRO_BATCHES_AT_ONCE, sample, texts_of
from .policy.heads import PolicyModel
from .policy.load import load_tokenizer, save_policy
from .progress import Reporter, say
from .sampling import row_keys
from .scoring import StepScorer
from .signals import StopFlag

RESULT_FIGURES = ("reward", "kl", "klPerToken", "entropy", "responseTokens", "truncatedShare")


class Session:
    """One attempt's run on one rank."""

    def __init__(
        self,
        plan: TrainingPlan,
        options: RunOptions,
        workspace: Workspace,
        group: Group,
        scorers: Any,
        stop: StopFlag,
        beat: Callable[[], None],
        reporter: Reporter | None,
    ) -> None:
        self._plan = plan
        self._options = options
        self._workspace = workspace
        self._group = group
        self._scorers = scorers
        self._stop = stop
        self._beat = beat
        self._reporter = reporter
        self._base = Path(plan.base_model.path)
        self._digest = plan.digest()

    def run(self) -> None:
        """Do everything that is left of the plan, and write its result."""
        torch_settings(self._plan)
        base_digest = check_base(self._plan.base_model, "baseModel", self._workspace, self._group)
        self._tokenizer = load_tokenizer(self._base)
        self._models = ModelFactory(self._plan, self._group, self._tokenizer)
        self._sampling = self._models.sampling()
        sets = self._data()
        self._evaluation = sets.get(data.EVALUATION)
        if self._group.is_main and self._plan.evaluation is not None:
            evaluate.record_scorers(self._workspace.root, self._scorers, self._workspace.check)
        self._measure_path(evaluate.BASE, self._base)
        start = self._base
        if self._plan.warm_start is not None:
            start = self._warm_start(sets[data.WARM_START])
            # The warm start's engine lives in cycles; its memory is wanted now.
            gc.collect()
            self._measure_path(evaluate.WARM_START, start)
        self._train(sets, start, base_digest)

    def _data(self) -> Mapping[str, Any]:
        def encode(texts: list[str]) -> list[list[int]]:
            # Large data takes longer to prepare than the watchdog waits for a step.
            self._beat()
            return [self._encode(text) for text in texts]

        if self._group.is_main:
            data.prepare_all(
                self._plan,
                self._workspace.root,
                encode,
                before_rename=self._workspace.check,
            )
        self._group.barrier("the data sets")
        self._beat()
        found: Mapping[str, Any] = data.load_all(self._plan, self._workspace.root)
        return found

    def _encode(self, text: str) -> list[int]:
        """A prompt as the policy sees it: the tokenizer's own special tokens in front, never an end token behind."""
        ids: list[int] = self._tokenizer(text).input_ids
        while ids and ids[-1] == self._tokenizer.eos_token_id:
            ids = ids[:-1]
        start = self._tokenizer.bos_token_id
        return ids or [self._tokenizer.eos_token_id if start is None else start]

    def _measure_path(self, subject: str, path: Path) -> None:
        """Measure a baseline once, before anything is trained on top of it."""
        if self._plan.evaluation is None:
            return
        if subject != Baseline.BASE and subject not in self._plan.evaluation.baselines:
            return

        def generate(rows: Sequence[Any], seeds: Sequence[int]) -> list[str]:
            module = self._models.policy(path, self._sampling.temperature).to(self._group.device)
            return self._generate(module, rows, seeds)

        self._measure(subject, generate)

    def _measure(
        self, subject: str, generate: Callable[[Sequence[Any], Sequence[int]], list[str]], version: str = ""
    ) -> None:
        assert self._evaluation is not None
        have = self._group.is_main and evaluate.exists(self._workspace.root, subject, version)
        if self._group.broadcast(have, "the look for a measurement"):
            return
        evaluate.measure(
            subject,
            self._evaluation,
            generate,
            self._scorers if self._group.is_main else None,
            plan=self._plan,
            workspace=self._workspace.root,
            write=self._group.is_main,
            version=version,
            have=False,
            before_rename=self._workspace.check,
        )
        self._group.barrier(f"the measurement of {subject}")
        self._beat()

    def _generate(self, module: PolicyModel, rows: Sequence[Any], seeds: Sequence[int]) -> list[str]:
        """Texts for evaluation rows: each rank samples its part, and every rank gets all of them."""
        world, rank = self._group.world_size, self._group.rank
        mine = range(rank * len(rows) // world, (rank + 1) * len(rows) // world)
        texts: list[str] = []
        if len(mine):
            keys = row_keys(0, "evaluation", 0, torch.tensor([seeds[place] for place in mine], dtype=torch.int64))
            responses = sample(
                module.model,
                [list(rows[place].prompt_ids) for place in mine],
                keys.to(self._group.device),
                self._sampling,
                self._tokenizer,
                self._options.micro_batch_size * MICRO_BATCHES_AT_ONCE,
                self._beat,
            )
            texts = texts_of(responses, self._tokenizer, self._sampling.stop)
        return self._group.gather_list(texts, "the gathering of evaluation texts")

    def _store(self, phase: str) -> CheckpointStore:
        return CheckpointStore(self._workspace, self._group, self._digest, phase, self._plan.checkpoints.keep)

    def _save_policy(self, weights: Callable[[], Mapping[str, Tensor]], folder: Path) -> None:
        """Write the policy as a Hugging Face directory; gathering the weights takes every rank."""
        whole = weights()
        if self._group.is_main:
            save_policy(whole, self._tokenizer, self._base, folder)

    def _warm_start(self, rows: Sequence[Any]) -> Path:
        """Fine-tune the base on demonstrations, unless a former attempt has; returns the policy it led to."""
        settings = self._plan.warm_start
        assert settings is not None
        local = settings.batch_size // self._group.world_size
        micro = min(local, self._options.micro_batch_size)
        engine = self._models.trained_policy(self._base, 1.0, settings.optimizer, -(-local // micro))
        trainer = SFTTrainer(settings, self._group, engine, rows, self._tokenizer, self._sampling, micro)

        def tell(step: int) -> None:
            if self._group.is_main and (step % 10 == 0 or step == trainer.steps):
                say("warm-start", step=step, steps=trainer.steps)

        loop = Loop(
            group=self._group,
            workspace=self._workspace,
            store=self._store("warmstart"),
            algorithm=trainer,
            steps=trainer.steps,
            checkpoints=self._plan.checkpoints,
            guards=Guards([guard for guard in self._plan.guards if guard.non_finite], self._options.settings),
            stop=self._stop,
            beat=self._beat,
            reporter=None,
            save_policy=lambda folder: self._save_policy(trainer.weights, folder / POLICY_FOLDER),
            after_step=tell,
        )
        loop.run(loop.resume())
        assert loop.last is not None
        return loop.last.path / POLICY_FOLDER

    def _train(self, sets: Mapping[str, Any], start: Path, base_digest: str) -> None:
        plan, micro = self._plan, self._options.micro_batch_size
        assert plan.ppo is not None
        temperature = self._sampling.temperature
        accumulation = plan.training.batch_size // plan.ppo.mini_batches // self._group.world_size // micro
        policy = self._models.trained_policy(start, temperature, plan.optimizer, accumulation)
        critic = self._models.critic(start, plan.ppo.critic.optimizer or plan.optimizer, accumulation)
        reference = self._models.reference(start, temperature)
        self._engines = [policy.describe(), critic.describe()]
        journal = Journal(self._workspace)
        names = [reward.scorer for reward in plan.rewards] + list(plan.monitors)
        worker = RolloutWorker(
            group=self._group,
            policy=policy,
            reference=reference,
            critic=critic,
            tokenizer=self._tokenizer,
            sampling=self._sampling,
            micro_batch_size=micro,
            scorer=StepScorer(self._scorers, names, journal, self._group),
            beat=self._beat,
        )
        trainer = PPOTrainer(plan, worker, sets[data.TRAIN], micro)
        loop = Loop(
            group=self._group,
            workspace=self._workspace,
            store=self._store("step"),
            algorithm=trainer,
            steps=plan.training.steps,
            checkpoints=plan.checkpoints,
            guards=Guards(list(plan.guards), self._options.settings),
            stop=self._stop,
            beat=self._beat,
            reporter=self._reporter,
            save_policy=lambda folder: self._save_policy(trainer.weights, folder / POLICY_FOLDER),
            after_step=lambda step: self._after_step(step, policy),
            after_save=lambda checkpoint: self._forget(journal),
        )
        done = loop.resume(self._options.min_checkpoint_step)
        known = journal.read(done if loop.last is not None else None) if self._group.is_main else {}
        journal.know(self._group.broadcast(known, "the reward journal"))
        trainer.begin()
        figures = loop.run(done)
        self._finish(trainer, policy, loop.last, figures, sets, base_digest)

    def _forget(self, journal: Journal) -> None:
        """Drop scores behind the oldest checkpoint that is kept."""
        kept = self._store("step").complete()
        if kept:
            journal.forget(kept[0].step)

    def _after_step(self, step: int, policy: Any) -> None:
        if self._reporter is not None:
            self._reporter.scorer_times({name: self._scorers.timing(name).p95_seconds for name in self._scorers.names})
        self._evaluate_at(step, policy)

    def _evaluate_at(self, step: int, policy: Any) -> None:
        evaluation = self._plan.evaluation
        if evaluation is None or evaluation.every_steps is None or step == self._plan.training.steps:
            return
        if step % evaluation.every_steps == 0:
            subject = f"{evaluate.POLICY}@{step}"
            self._measure_policy(subject, policy, f"step {step}")
            if self._reporter is not None:
                self._reporter.evaluated(step, evaluate.means(self._plan, self._workspace.root, subject))

    def _measure_policy(self, subject: str, policy: Any, version: str) -> None:
        def generate(rows: Sequence[Any], seeds: Sequence[int]) -> list[str]:
            with policy.whole() as module:
                return self._generate(module, rows, seeds)

        self._measure(subject, generate, version)

    def _finish(
        self,
        trainer: PPOTrainer,
        policy: Any,
        last: Checkpoint | None,
        figures: Mapping[str, float],
        sets: Mapping[str, Any],
        base_digest: str,
    ) -> None:
        """Write the policy, evaluate it, and last of all write the result."""
        target = self._workspace.own / POLICY_FOLDER
        self._save_policy(trainer.weights, target)
        policy_digest = self._group.broadcast(digest_tree(target) if self._group.is_main else "", "the policy's digest")
        comparisons, found = [], self._result_figures(figures)
        if self._plan.evaluation is not None:
            self._measure_policy(evaluate.POLICY, policy, policy_digest)
            if self._group.is_main:
                comparisons = evaluate.comparisons(self._plan, self._workspace.root)
                evaluate.write_samples(self._plan, self._workspace.root, before_rename=self._workspace.check)
                found |= evaluate.figures(self._plan, self._workspace.root)
        if not self._group.is_main:
            return
        result = Result(
            plan_digest=self._digest,
            attempt=self._workspace.attempt,
            step=self._plan.training.steps,
            finished_at=datetime.now(UTC),
            policy=target.relative_to(self._workspace.root).as_posix(),
            policy_digest=policy_digest,
            base_model_digest=base_digest,
            datasets=[prepared.record for prepared in sets.values()],
            evaluation=comparisons,
            figures=found,
            checkpoint=last.record() if last is not None else None,
            world_size=self._group.world_size,
            engine=", ".join(self._engines),
        )
        self._workspace.publish(RESULT_FILE, result.model_dump_json(by_alias=True, indent=1).encode())
        say("result", policy=result.policy_digest, figures=result.figures)

    def _result_figures(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures of the last step that a person asks for first."""
        wanted = [name for name in figures if name in RESULT_FIGURES or name.startswith("score/")]
        return {name: figures[name] for name in wanted[:MAX_FIGURES]}
