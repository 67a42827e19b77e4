"""Why a run ends without a result. Each class of the exit-code table has one exception; nothing here decides retries.

TrainerError
├── ConfigError      the plan or its inputs must be mended by a person
├── GuardStopped     a guard with action Stop passed its limit
├── OutOfMemory      the container or the device ran out of memory
├── PeerLost         another rank vanished
├── Superseded       a newer attempt owns the workspace
├── Interrupted      asked to stop, and left
├── Stalled          no new step within timeouts.progress
└── Crash            anything else
"""

import errno
from typing import ClassVar

from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass

# What a person must mend. Anything else that storage says (a stale handle, an I/O error, a full disk) may pass.
_PERMANENT = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR})


def is_permanent(error: OSError) -> bool:
    """Whether trying again can't help; an error without a number is a library's own word on what it found."""
    return error.errno is None or error.errno in _PERMANENT


class TrainerError(Exception):
    """A run that ends without a result; `reason` is a CamelCase word for machines, the text is for people."""

    failure: ClassVar[FailureClass] = FailureClass.CRASH

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.failure.value

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this class of failure."""
        return EXIT_CODE_OF_CLASS[self.failure]


class ConfigError(TrainerError):
    """The plan can't be run as written, or an input is not what the plan says."""

    failure = FailureClass.CONFIG


class GuardStopped(TrainerError):
    """A guard with action Stop passed its limit."""

    failure = FailureClass.GUARD


class OutOfMemory(TrainerError):
    """The container or the device ran out of memory."""

    failure = FailureClass.OUT_OF_MEMORY


class PeerLost(TrainerError):
    """Another rank vanished: a consequence, never the root cause."""

    failure = FailureClass.PEER_LOST


class Superseded(TrainerError):
    """A newer attempt owns the workspace."""

    failure = FailureClass.SUPERSEDED


class Interrupted(TrainerError):
    """The run was asked to stop, and left."""

    failure = FailureClass.INTERRUPTED


class Stalled(TrainerError):
    """No new step within timeouts.progress."""

    failure = FailureClass.STALLED


class Crash(TrainerError):
    """Anything else."""

    failure = FailureClass.CRASH
