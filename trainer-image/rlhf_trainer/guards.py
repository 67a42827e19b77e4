"""Guards: patience, actions that may change in a running job, and what is remembered. Limits are in limits.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.guards import GuardAction
from rlhf_operator.api.plan import LiveSettings, PlanGuard

from .limits import LENGTH_RATIO, Best, Seen, Unmeasured, monitored, passed


def measures_kl(guards: Sequence[PlanGuard]) -> bool:
    """Whether a guard asks for KL, so that a reference model is needed even where none is optimised against."""
    return any(guard.kind in ("kl", "slow_convergence") for guard in guards)


@dataclass(frozen=True)
class Violation:
    """A guard whose limit was passed for as long as its patience lasts."""

    guard: str
    action: GuardAction
    message: str


class Streak(Model):
    """How often in a row a limit was passed."""

    count: int = 0
    since: int = 0
    """Step at which it began; 0 while it has not."""


class GuardState(Model):
    """What guards remember from step to step; part of every checkpoint."""

    streaks: dict[str, Streak] = Field(default_factory=dict)
    """By guard; one that is not there has passed no limit."""
    best: dict[str, Best] = Field(default_factory=dict)
    """By guard with a monitor."""
    reference_tokens: float | None = None
    """Mean length of the reference model's responses, in tokens: those of step 1."""


class Guards:
    """The guards of a run and how often in a row each limit was passed."""

    def __init__(
        self, guards: list[PlanGuard], settings_file: Path | None, sparse: frozenset[str] = frozenset()
    ) -> None:
        """sparse: figures that are measured behind some steps only; that they are not there is no news."""
        self._sparse = sparse
        self._guards = guards
        self._settings_file = settings_file
        self._settings = LiveSettings()
        self._settings_seen = False
        self._settings_error: str | None = None
        self._blind: list[str] = []
        self.state = GuardState()

    @property
    def notes(self) -> list[str]:
        """What a person should know beside the violations: settings that can't be read, guards that saw no figure."""
        return [*self._blind, *([self._settings_error] if self._settings_error is not None else [])]

    @property
    def crossed(self) -> list[str]:
        """Guards that may stop the run and whose limit was passed at the last step, patience or not."""
        return sorted(name for name in self.state.streaks if self._action(name) is GuardAction.STOP)

    def derive(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures that follow from a step's own and from what was before the first update."""
        tokens = figures.get("responseTokens")
        if tokens is None:
            return {}
        if self.state.reference_tokens is None:
            self.state = self.state.model_copy(update={"reference_tokens": tokens})
        # A reference that says nothing at all has no length to be a multiple of.
        return {LENGTH_RATIO: tokens / self.state.reference_tokens} if self.state.reference_tokens else {}

    def check(self, step: int, figures: Mapping[str, float]) -> list[Violation]:
        """Count this step and return the guards whose patience is over, unless they are Off.

        A guard whose figure is not there judges nothing at this step and says so in `notes`; its streak stays.
        """
        self._read_settings()
        found, streaks, best, self._blind = [], dict(self.state.streaks), dict(self.state.best), []
        for guard in self._guards:
            action = self._action(guard.name)
            known = monitored(guard, Seen(step, figures, best.get(guard.name)))
            if known is not None:
                best[guard.name] = known
            try:
                text = passed(guard, Seen(step, figures, known))
            except Unmeasured as missing:
                if action is not GuardAction.OFF and str(missing) not in self._sparse:
                    self._blind.append(f"guard {guard.name} judges nothing: step {step} has no figure {missing}")
                continue
            if text is None:
                streaks.pop(guard.name, None)
                continue
            before = streaks.get(guard.name, Streak(since=step))
            streak = streaks[guard.name] = Streak(count=before.count + 1, since=before.since)
            if streak.count >= guard.patience and action is not GuardAction.OFF:
                words = f"{streak.count} in a row since step {streak.since}, patience {guard.patience}"
                found.append(Violation(guard.name, action, f"guard {guard.name}: {text}, at step {step} ({words})"))
        self.state = self.state.model_copy(update={"streaks": streaks, "best": best})
        return found

    def _action(self, name: str) -> GuardAction:
        return self._settings.guard_actions.get(name, GuardAction.STOP)

    def _read_settings(self) -> None:
        """Read the actions again; a file that can't be read leaves the last good ones in force and says so."""
        if self._settings_file is None:
            return
        try:
            self._settings = LiveSettings.model_validate_json(self._settings_file.read_bytes())
            self._settings_seen, self._settings_error = True, None
        except FileNotFoundError:
            if self._settings_seen:
                self._settings_error = f"{self._settings_file} is gone: the actions read last stay in force"
        except (OSError, ValidationError) as error:
            self._settings_error = f"{self._settings_file}: {str(error).splitlines()[0]}"
