"""How a rank ended: from an exception to a class of failure, to a file for the launcher, to an exit code."""

import os
import traceback
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass

from .distributed import is_peer_lost
from .errors import ConfigError, Crash, OutOfMemory, PeerLost, TrainerError
from .files import write_durably
from .signals import RUN_DIRECTORY_VARIABLE

HELPER_LOST = "HelperLost"

# In the order in which they explain an attempt: a consequence never hides a cause.
_CONSEQUENCES = {FailureClass.PEER_LOST: 2, FailureClass.INTERRUPTED: 1}


class Outcome(Model):
    """How one rank ended."""

    rank: int
    failure: FailureClass | None = None
    """None: success."""
    reason: str = "Complete"
    message: str = ""
    at: AwareDatetime

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this outcome."""
        return ExitCode.OK if self.failure is None else EXIT_CODE_OF_CLASS[self.failure]


def classify(error: BaseException) -> TrainerError:
    """Give an exception its class of failure. A cause further down the chain counts where the surface says nothing."""
    if isinstance(error, TrainerError):
        return error
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return OutOfMemory(f"out of memory: {_first_line(error)}; lower microBatchSize or the lengths in generation")
    # By name: scoring is a package below this one that knows nothing of exit codes.
    if type(error).__name__ in {"ScorerConfigError", "GraderFailed", "ArtifactError"}:
        return ConfigError(str(error), reason=type(error).__name__)
    if type(error).__name__ == "SandboxError":
        return Crash(str(error), reason=HELPER_LOST)
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return OutOfMemory(f"out of memory: {_first_line(error)}")
    if is_peer_lost(error):
        return PeerLost(f"another rank vanished: {_first_line(error)}")
    where = traceback.extract_tb(error.__traceback__)[-1:] or []
    place = f" at {Path(where[0].filename).name}:{where[0].lineno}" if where else ""
    return Crash(f"{type(error).__name__}{place}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:500]


def outcome_of(rank: int, error: BaseException | None) -> Outcome:
    """Describe how a rank ended."""
    now = datetime.now(UTC)
    if error is None:
        return Outcome(rank=rank, at=now)
    known = classify(error)
    return Outcome(rank=rank, failure=known.failure, reason=known.reason, message=known.message, at=now)


def leave_outcome(outcome: Outcome) -> None:
    """Write the outcome where the launcher looks; without a launcher there is nobody to tell."""
    directory = os.environ.get(RUN_DIRECTORY_VARIABLE)
    if directory is not None:
        write_durably(Path(directory, f"outcome-{outcome.rank}.json"), outcome.model_dump_json(by_alias=True).encode())


def read_outcomes(directory: Path) -> list[Outcome]:
    """Every outcome that was left; a rank that was killed left none."""
    found = []
    for path in sorted(directory.glob("outcome-*.json")):
        try:
            found.append(Outcome.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise Crash(f"{path} can't be read: {error}") from error
    return found


def root_cause(outcomes: list[Outcome]) -> Outcome | None:
    """The failure that explains the others: the earliest that is not a consequence of one; None when all succeeded."""
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    return min(failed, key=lambda one: (_CONSEQUENCES.get(one.failure, 0), one.at), default=None)  # type: ignore[arg-type]
