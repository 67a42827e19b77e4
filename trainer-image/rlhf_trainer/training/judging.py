"""Who judges a run's responses, and what is kept of their words: for every training that generates."""

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf_trainer.checkpoint import Checkpoint, CheckpointStore
from rlhf_trainer.errors import GuardStopped
from rlhf_trainer.journal import Journal
from rlhf_trainer.progress import say
from rlhf_trainer.samples import SampleLog
from rlhf_trainer.scoring import StepScorer

from .attempt import Attempt


class Judging:
    """The scorers of one training on one rank, with the journal and the samples of what they judged."""

    def __init__(self, attempt: Attempt, store: CheckpointStore) -> None:
        plan = attempt.plan
        self._attempt = attempt
        self._store = store
        self._journal = Journal(attempt.workspace)
        self._samples = SampleLog(attempt.workspace.own, plan.checkpoints.every_steps, plan.rewards)
        names = [reward.scorer for reward in plan.rewards] + list(plan.monitors)
        self.scorer = StepScorer(attempt.scorers, names, self._journal, attempt.group, self._samples)

    def resume(self, found: Checkpoint | None) -> None:
        """Reuse what was said of the steps behind a checkpoint, or of all. All ranks together."""
        group = self._attempt.group
        known = self._journal.read(found.step if found is not None else None) if group.is_main else {}
        self._journal.know(group.broadcast(known, "the reward journal"))

    def tell_times(self) -> None:
        """Say how long scorers take, and which of them fail."""
        if self._attempt.reporter is not None:
            scorers = self._attempt.scorers
            times = {name: scorers.timing(name).p95_seconds for name in scorers.names}
            self._attempt.reporter.scorer_times(times, scorers.failures())

    def forget(self, checkpoint: Checkpoint) -> None:
        """Drop what lies behind the oldest checkpoint that is kept. Rank 0 only."""
        self._journal.forget(self._store.complete()[0].step)

    @contextmanager
    def leaving_samples(self) -> Iterator[None]:
        """Train in here: a run that a guard stops leaves its last batches and their worst responses."""
        try:
            yield
        except GuardStopped:
            if self._attempt.group.is_main:
                say("last-steps", path=str(self._samples.leave()))
            raise
