"""SFT, DPO and KTO: a TRL trainer over rows that are there already, between our start and our checkpoints."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor

from rlhf_trainer.boundary import Boundary
from rlhf_trainer.checkpoint import POLICY_FOLDER
from rlhf_trainer.data import Prepared
from rlhf_trainer.engine import copy_whole
from rlhf_trainer.guards import Guards
from rlhf_trainer.policy.heads import PolicyModel
from rlhf_trainer.sampling import DataOrder
from rlhf_trainer.trl_bridge.arguments import common_arguments
from rlhf_trainer.trl_bridge.control import StepControl
from rlhf_trainer.trl_bridge.process import library_state, whole_models
from rlhf_trainer.trl_bridge.tables import figures
from rlhf_trainer.trl_bridge.trainer import Bridge

from .attempt import Attempt, Trained
from .divergence import SPARSE, Divergence
from .examples import PLACE
from .measuring import Measuring


@dataclass(frozen=True)
class Offline:
    """What an algorithm builds its trainer from."""

    attempt: Attempt
    arguments: Mapping[str, Any]
    """What every TRL config gets."""
    order: list[int]
    """The row of every place of the run."""
    model: Any
    reference: Any
    """The frozen reference model; None where the algorithm has none."""
    replica: PolicyModel | None
    """An unpartitioned model to gather into, under ZeRO-3."""
    control: StepControl
    figures: Mapping[str, str]
    divergence: Divergence | None


class OfflineBridge(Bridge):
    """A TRL trainer whose policy generates between steps, and is saved beside its own files."""

    ref_model: Any
    """TRL's: the reference model in its engine."""

    def __init__(self, run: Offline, **settings: Any) -> None:
        self._run = run
        super().__init__(
            optimizer=run.attempt.plan.optimizer,
            compute=run.attempt.plan.compute,
            control=run.control,
            model=run.model,
            processing_class=run.attempt.tokenizer,
            train_dataset=Dataset.from_dict({PLACE: list(range(len(run.order)))}),
            **settings,
        )

    def step_figures(self, logs: Mapping[str, float]) -> dict[str, float]:
        """TRL's figures by our names; where it is due, how far the policy is from its reference."""
        found = figures(logs, self._run.figures)
        if self._run.divergence is not None:
            found |= self._run.divergence.at(self._control.step(self.state.global_step), self.whole, self.ref_model)
        return found

    def write_more(self, folder: Path) -> None:
        """The policy as a Hugging Face directory: what a run of another world size starts from."""
        with whole_models(getattr(self.args, "hf_deepspeed_config", None)):
            self._run.attempt.save_policy(self.weights, folder / POLICY_FOLDER)

    @contextmanager
    def whole(self) -> Iterator[PolicyModel]:
        """Give the whole policy for generation; all ranks together."""
        replica, temperature = self._run.replica, self._run.attempt.sampling.temperature
        if replica is not None:
            copy_whole(cast("torch.nn.Module", self.model), replica.model)
            with whole_models(getattr(self.args, "hf_deepspeed_config", None)):
                yield replica
            return
        model: Any = self.model
        model.eval()
        try:
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bool(self.args.bf16)):
                yield PolicyModel(model, temperature)
        finally:
            model.train()


@dataclass(frozen=True)
class Recipe:
    """What is an algorithm's own."""

    count: int
    """Examples that an epoch has."""
    stream: str
    """Names the order of its rows."""
    figures: Mapping[str, str]
    build: Callable[[Offline], OfflineBridge]
    reference: bool

    def train(self, attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path) -> Trained:
        """Train the policy in `start` to the plan's last step, from the newest checkpoint if there is one."""
        plan, group = attempt.plan, attempt.group
        steps = plan.training.steps_of(self.count)
        if attempt.reporter is not None:
            attempt.reporter.expect(steps)
        boundary = Boundary(
            group=group,
            workspace=attempt.workspace,
            store=attempt.store("step"),
            steps=steps,
            checkpoints=plan.checkpoints,
            guards=Guards(list(plan.guards), attempt.options.settings, SPARSE),
            stop=attempt.stop,
            beat=attempt.beat,
            reporter=attempt.reporter,
        )
        measuring.pace(boundary.pace)
        with library_state(plan.compute), tempfile.TemporaryDirectory(prefix="rlhf-trl-") as scratch:
            engine, weights = self._fit(attempt, measuring, rows, start, boundary, scratch)
        return Trained(
            steps=steps,
            engine=engine,
            figures=boundary.figures,
            last=boundary.last,
            weights=lambda: weights,
            whole=lambda: _loaded(attempt, start, weights),
            reference=_reference(attempt, start) if self.reference else None,
        )

    def _fit(
        self, attempt: Attempt, measuring: Measuring, rows: Prepared, start: Path, boundary: Boundary, scratch: str
    ) -> tuple[str, Mapping[str, Tensor]]:
        trainer = self.build(self._run(attempt, measuring.prompts or rows, start, boundary, scratch))
        boundary.after_step = lambda step: measuring.between(step, boundary.steps, trainer.whole)
        trainer.fit(boundary.find(attempt.options.min_checkpoint_step))
        engine, weights = trainer.engine, trainer.weights()
        # Nothing may hold the trainer when the final evaluation wants its memory.
        boundary.after_step = lambda step: None
        trainer.accelerator.free_memory()
        return engine, weights

    def _run(self, attempt: Attempt, prompts: Prepared, start: Path, boundary: Boundary, scratch: str) -> Offline:
        plan = attempt.plan
        # Before the arguments exist: while they do, Transformers partitions what it loads under ZeRO-3.
        model = attempt.models.trained(start)
        reference = attempt.models.load(start).requires_grad_(False) if self.reference else None
        temperature = attempt.sampling.temperature
        replica = PolicyModel(attempt.models.trained(start), temperature) if plan.compute.zero_stage == 3 else None
        order = DataOrder(self.count, plan.training.seed, self.stream)
        return Offline(
            attempt=attempt,
            arguments=common_arguments(
                plan.optimizer,
                plan.compute,
                batch_size=plan.training.batch_size,
                micro_batch_size=attempt.options.micro_batch_size,
                steps=boundary.steps,
                seed=plan.training.seed,
                scratch=scratch,
            ),
            order=[order.at(place) for place in range(boundary.steps * plan.training.batch_size)],
            model=model,
            reference=reference,
            replica=replica.to(attempt.group.device).requires_grad_(False) if replica is not None else None,
            control=StepControl(boundary, seed=plan.training.seed, steps=boundary.steps),
            figures=self.figures,
            divergence=Divergence(attempt, prompts, boundary.steps) if self.reference else None,
        )


@contextmanager
def _loaded(attempt: Attempt, start: Path, weights: Mapping[str, Tensor]) -> Iterator[PolicyModel]:
    """The trained policy for generation, once the trainer is gone."""
    module = PolicyModel(attempt.models.trained(start), attempt.sampling.temperature)
    module.model.load_state_dict(weights)
    yield module.to(attempt.group.device)


def _reference(attempt: Attempt, start: Path) -> Callable[..., Any]:
    """The reference model for the final evaluation, read when it is first asked."""

    @cache
    def module() -> PolicyModel:
        return attempt.models.policy(start, attempt.sampling.temperature).to(attempt.group.device)

    return lambda *inputs: module()(*inputs)
