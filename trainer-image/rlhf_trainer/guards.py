"""Guards: limits on figures, with patience, and actions that may change while a run goes on. Measuring is elsewhere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.guards import GuardAction
from rlhf_operator.api.plan import LiveSettings, PlanGuard

SUPPORTED = frozenset({"kl", "non_finite"})
_KINDS = (
    "kl",
    "slow_convergence",
    "entropy",
    "reward_hacking",
    "reward_saturation",
    "all_masked",
    "log_prob_drift",
    "non_finite",
)


def kind_of(guard: PlanGuard) -> str:
    """The Python name of the one block that is set."""
    return next(kind for kind in _KINDS if getattr(guard, kind) is not None)


@dataclass(frozen=True)
class Violation:
    """A guard whose limit was passed for as long as its patience lasts."""

    guard: str
    action: GuardAction
    message: str


def exceeded(guard: PlanGuard, figures: Mapping[str, float]) -> str | None:
    """Say how this step's figures pass the guard's limit, or None."""
    if guard.kl is not None:
        kl = figures["kl"]
        # A KL that is not a number is nonFinite's business; "not <=" would call it a passed limit here.
        return f"KL is {kl:.4g} nats per response, above the limit {guard.kl.max:g}" if kl > guard.kl.max else None
    if guard.non_finite is not None:
        bad = sorted(name for name, value in figures.items() if not math.isfinite(value))
        return f"{', '.join(bad[:5])} not finite, where the limit is any finite number" if bad else None
    return None


class Guards:
    """The guards of a run and how often in a row each limit was passed."""

    def __init__(self, guards: list[PlanGuard], settings_file: Path | None) -> None:
        self._guards = guards
        self._settings_file = settings_file
        self._settings = LiveSettings()
        self.streaks: dict[str, int] = {guard.name: 0 for guard in guards}
        self._settings_seen = False
        self.settings_error: str | None = None

    def check(self, step: int, figures: Mapping[str, float]) -> list[Violation]:
        """Count this step and return the guards whose patience is over, unless they are Off."""
        self._read_settings()
        found = []
        for guard in self._guards:
            text = exceeded(guard, figures)
            self.streaks[guard.name] = self.streaks[guard.name] + 1 if text is not None else 0
            action = self._settings.guard_actions.get(guard.name, GuardAction.STOP)
            if text is None or self.streaks[guard.name] < guard.patience or action is GuardAction.OFF:
                continue
            found.append(
                Violation(
                    guard.name,
                    action,
                    f"guard {guard.name}: {text}, at step {step} ({self.streaks[guard.name]} in a row, "
                    f"patience {guard.patience})",
                )
            )
        return found

    def _read_settings(self) -> None:
        """Read the actions again; a file that can't be read leaves the last good ones in force and says so."""
        if self._settings_file is None:
            return
        try:
            self._settings = LiveSettings.model_validate_json(self._settings_file.read_bytes())
            self._settings_seen, self.settings_error = True, None
        except FileNotFoundError:
            if self._settings_seen:
                self.settings_error = f"{self._settings_file} is gone: the actions read last stay in force"
        except (OSError, ValidationError) as error:
            self.settings_error = f"{self._settings_file}: {str(error).splitlines()[0]}"
