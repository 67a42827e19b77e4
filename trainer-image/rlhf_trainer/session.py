"""A run on one rank: data, baseline, warm start, the algorithm, evaluation, result. Every rank does the same."""

import gc
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import MAX_SLICES, Result

from . import data, evaluate
from .base import check_base, check_parent
from .checkpoint import POLICY_FOLDER
from .curves import CURVES_FILE, draw_curves
from .data import Prepared
from .distributed import Group
from .fencing import RESULT_FILE, Workspace
from .files import digest_tree
from .history import read_history
from .memory.check import check_memory
from .models import torch_settings
from .options import RunOptions
from .progress import Reporter, say
from .signals import StopFlag
from .training.attempt import Attempt, Trained
from .training.choice import training_of
from .training.measuring import Measuring
from .training.warm_start import warm_start

_OF_THE_CLOCK = re.compile(r"seconds.*|.*PerSecond|mfu")
RESULT_FIGURES = (
    "reward",
    "loss",
    "accuracy",
    "rewardMargin",
    "kl",
    "klPerToken",
    "entropy",
    "responseTokens",
    "truncatedShare",
)


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
        self._attempt = Attempt(plan, options, workspace, group, scorers, stop, beat, reporter)

    def run(self) -> None:
        """Do everything that is left of the plan, and write its result."""
        attempt = self._attempt
        plan, workspace, group = attempt.plan, attempt.workspace, attempt.group
        torch_settings(plan)
        base_digest = check_base(plan.base_model, "baseModel", workspace, group)
        check_memory(plan, attempt.options.micro_batch_size, group.device)
        sets = self._data()
        measuring = Measuring(attempt, sets)
        if group.is_main and plan.evaluation is not None:
            evaluate.record_scorers(workspace.root, attempt.scorers, workspace.check)
        measuring.baseline(evaluate.BASE, attempt.base)
        if plan.parent_artifact is not None and measuring.wants(evaluate.PARENT):
            measuring.baseline(evaluate.PARENT, check_parent(plan.parent_artifact, attempt.tokenizer, group))
        start = attempt.base
        if plan.warm_start is not None:
            start = warm_start(attempt, sets[data.WARM_START])
            # The warm start's engine lives in cycles; its memory is wanted now.
            gc.collect()
            measuring.baseline(evaluate.WARM_START, start)
        trained = training_of(plan.algorithm)(attempt, measuring, sets[data.TRAIN], start)
        self._finish(trained, measuring, sets, base_digest)

    def _data(self) -> Mapping[str, Prepared]:
        attempt = self._attempt

        def encode(texts: list[str]) -> list[list[int]]:
            # Large data takes longer to prepare than the watchdog waits for a step.
            attempt.beat()
            return [attempt.encode(text) for text in texts]

        if attempt.group.is_main:
            data.prepare_all(attempt.plan, attempt.workspace.root, encode, before_rename=attempt.workspace.check)
        attempt.group.barrier("the data sets")
        attempt.beat()
        return data.load_all(attempt.plan, attempt.workspace.root)

    def _finish(self, trained: Trained, measuring: Measuring, sets: Mapping[str, Prepared], base_digest: str) -> None:
        """Write the policy, evaluate it, and last of all write the result."""
        attempt, group = self._attempt, self._attempt.group
        plan, workspace = attempt.plan, attempt.workspace
        target = workspace.own / POLICY_FOLDER
        attempt.save_result(trained.weights, target, base_digest)
        policy_digest = group.broadcast(digest_tree(target) if group.is_main else "", "the policy's digest")
        measuring.policy(trained.whole, policy_digest, trained.reference)
        if not group.is_main:
            return
        found = _first(trained.figures)
        if plan.evaluation is not None:
            evaluate.write_samples(plan, workspace.root, before_rename=workspace.check)
            found |= evaluate.figures(plan, workspace.root)
        result = Result(
            plan_digest=attempt.plan_digest,
            attempt=workspace.attempt,
            step=trained.steps,
            finished_at=datetime.now(UTC),
            policy=target.relative_to(workspace.root).as_posix(),
            policy_digest=policy_digest,
            base_model_digest=base_digest,
            datasets=[prepared.record for prepared in sets.values()],
            evaluation=evaluate.comparisons(plan, workspace.root),
            suites=evaluate.suite_scores(plan, workspace.root),
            slices=evaluate.all_slices(plan, workspace.root)[:MAX_SLICES],
            figures={**found, **_lasting(trained.figures)},
            checkpoint=trained.last.record() if trained.last is not None else None,
            world_size=group.world_size,
            engine=trained.engine,
        )
        if (curves := draw_curves(read_history(workspace))) is not None:
            workspace.publish(CURVES_FILE, curves)
        workspace.publish(RESULT_FILE, result.model_dump_json(by_alias=True, indent=1).encode())
        say("result", policy=result.policy_digest, figures=result.figures)


def _first(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of the last step that a person asks for first: last words have room for those in front."""
    wanted = [name for name in figures if name in RESULT_FIGURES or name.startswith("score/")]
    return {name: figures[name] for name in wanted}


def _lasting(figures: Mapping[str, float]) -> dict[str, float]:
    """The last step's figures but those of the clock: a run that was resumed has the result of one that was not."""
    return {name: value for name, value in figures.items() if not _OF_THE_CLOCK.fullmatch(name)}
