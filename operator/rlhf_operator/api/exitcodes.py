"""Exit codes of the trainer and the classes of failure they stand for: the one table both sides read."""

from enum import IntEnum, StrEnum


class FailureClass(StrEnum):
    """Why an attempt ended without a result. Decides whether and how the next attempt is made."""

    CONFIG = "Config"
    """The plan can't be run as written: never retried."""
    GUARD = "Guard"
    """A guard with action Stop crossed its limit: never retried."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The container or the device ran out of memory: retried once with half the microBatchSize."""
    PEER_LOST = "PeerLost"
    """A rank lost another rank: a consequence, never the root cause while another class is known."""
    SUPERSEDED = "Superseded"
    """A newer attempt owns the workspace; this one gave way."""
    INTERRUPTED = "Interrupted"
    """The pod was asked to stop and left with its work saved."""
    STALLED = "Stalled"
    """No new step within timeouts.progress."""
    CRASH = "Crash"
    """Anything else."""
    DISRUPTION = "Disruption"
    """The cluster took the pod away (drain, eviction, preemption): free, retried at once."""
    GANG_NOT_SCHEDULED = "GangNotScheduled"
    """Not all ranks joined within timeouts.startup."""
    RESULT_UNKNOWN = "ResultUnknown"
    """The pods are gone and no verdict could be read."""


class ExitCode(IntEnum):
    """What the container `trainer` exits with. 75 and 78 are sysexits.h's EX_TEMPFAIL and EX_CONFIG, 70 EX_SOFTWARE."""

    OK = 0
    CRASH = 70
    INTERRUPTED = 75
    CONFIG = 78
    GUARD = 80
    OUT_OF_MEMORY = 81
    PEER_LOST = 82
    SUPERSEDED = 83
    STALLED = 84


CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.CRASH: FailureClass.CRASH,
    ExitCode.INTERRUPTED: FailureClass.INTERRUPTED,
    ExitCode.CONFIG: FailureClass.CONFIG,
    ExitCode.GUARD: FailureClass.GUARD,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.PEER_LOST: FailureClass.PEER_LOST,
    ExitCode.SUPERSEDED: FailureClass.SUPERSEDED,
    ExitCode.STALLED: FailureClass.STALLED,
}

EXIT_CODE_OF_CLASS: dict[FailureClass, ExitCode] = {
    failure: ExitCode(code) for code, failure in CLASS_OF_EXIT_CODE.items()
}


def failure_class(exit_code: int) -> FailureClass:
    """Return the class of a non-zero exit code; codes outside the table are crashes."""
    return CLASS_OF_EXIT_CODE.get(exit_code, FailureClass.CRASH)


VERIFY_MISMATCH = 65
"""`python -m rlhf_scoring.verify`: the files are not those that the digest names (sysexits.h's EX_DATAERR)."""
VERIFY_UNREADABLE = 66
"""`python -m rlhf_scoring.verify`: they are not there, or can't be read (EX_NOINPUT)."""
VERIFY_NOT_SERVABLE = 64
"""`python -m rlhf_scoring.verify`: they are those of the digest, and no model by themselves (EX_USAGE)."""
