"""From exceptions to classes of failure, from several ranks to one cause, and what of it reaches the kubelet."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass
from rlhf_operator.api.result import TERMINATION_MESSAGE_BYTES, Result
from rlhf_scoring.errors import GraderFailed, ScorerConfigError
from rlhf_trainer import errors
from rlhf_trainer.cgroup import memory_limit_bytes, oom_kills
from rlhf_trainer.outcome import Outcome, classify, root_cause
from rlhf_trainer.termination import success_message

START = datetime(2026, 1, 1, tzinfo=UTC)


def outcome(failure: FailureClass | None, rank: int = 0, seconds: float = 0.0) -> Outcome:
    return Outcome(rank=rank, failure=failure, at=START + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (errors.ConfigError("x"), FailureClass.CONFIG),
        (errors.GuardStopped("x"), FailureClass.GUARD),
        (errors.Superseded("x"), FailureClass.SUPERSEDED),
        (errors.Interrupted("x"), FailureClass.INTERRUPTED),
        (ScorerConfigError("s", "no such column"), FailureClass.CONFIG),
        (GraderFailed("s", "row 3: raised"), FailureClass.CONFIG),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
            FailureClass.OUT_OF_MEMORY,
        ),
        (torch.distributed.DistBackendError("NCCL error"), FailureClass.PEER_LOST),
        (
            RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.1.2.3]:4242"),
            FailureClass.PEER_LOST,
        ),
        (ConnectionResetError("reset"), FailureClass.PEER_LOST),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureClass.CRASH),
        (KeyError("x"), FailureClass.CRASH),
    ],
)
def test_every_exception_has_its_class(error: Exception, failure: FailureClass) -> None:
    assert classify(error).failure is failure


def test_every_class_that_a_pod_can_exit_with_has_an_exception_and_a_code_of_its_own() -> None:
    kinds = errors.TrainerError.__subclasses__()
    codes = [kind("x").exit_code for kind in kinds]
    assert sorted(codes) == sorted(set(ExitCode) - {ExitCode.OK})
    assert all(EXIT_CODE_OF_CLASS[kind.failure] is kind("x").exit_code for kind in kinds)


def test_a_consequence_never_hides_a_cause() -> None:
    lost = outcome(FailureClass.PEER_LOST, rank=1, seconds=0)
    crash = outcome(FailureClass.CRASH, rank=0, seconds=5)
    assert root_cause([lost, crash]) is crash
    assert root_cause([lost, outcome(None)]) is lost
    assert root_cause([outcome(FailureClass.INTERRUPTED), lost]).failure is FailureClass.INTERRUPTED  # type: ignore[union-attr]
    assert root_cause([outcome(None), outcome(None, rank=1)]) is None


def test_the_first_of_several_causes_explains() -> None:
    first = outcome(FailureClass.CONFIG, rank=1, seconds=1)
    assert root_cause([outcome(FailureClass.CRASH, seconds=2), first]) is first


def test_the_success_message_fits_the_kubelet() -> None:
    digest = "sha256:" + "a" * 64
    result = Result(
        plan_digest=digest,
        attempt=1,
        step=5,
        finished_at=START,
        policy="attempts/1/policy",
        policy_digest=digest,
        base_model_digest=digest,
        datasets=[],
        figures={f"score/a-scorer-with-a-long-name-{number}": 0.1234567890123 for number in range(60)},
        world_size=1,
        engine="PlainEngine(world=1)",
    )
    message = success_message(result)
    assert message.failure is None
    assert len(message.encode()) <= TERMINATION_MESSAGE_BYTES


def cgroup(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "self").write_text(own)
    return root / "fs", root / "self"


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (
            "0::/kubepods/pod1\n",
            {"kubepods/pod1/memory.events": "low 0\noom 5\noom_kill 3\n", "kubepods/pod1/memory.max": "1048576\n"},
        ),
        ("0::/\n", {"memory.events": "oom 3\noom_kill 3\n", "memory.max": "1048576\n"}),
        (
            "5:memory:/kubepods/pod1\n0::/\n",
            {
                "memory/kubepods/pod1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                "memory/kubepods/pod1/memory.limit_in_bytes": "1048576\n",
            },
        ),
        (
            "5:cpu,memory:/kubepods/not/mounted/here\n",
            {
                "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                "memory/memory.limit_in_bytes": "1048576\n",
            },
        ),
    ],
)
def test_the_kernels_counter_is_found_in_both_versions_inside_and_outside_a_container(
    tmp_path: Path, own: str, files: dict[str, str]
) -> None:
    places = cgroup(tmp_path, own, files)
    assert oom_kills(*places) == 3
    assert memory_limit_bytes(*places) == 1 << 20


def test_no_counter_is_not_a_count_of_zero(tmp_path: Path) -> None:
    assert oom_kills(tmp_path, tmp_path / "self") is None
    assert memory_limit_bytes(*cgroup(tmp_path, "0::/\n", {"memory.max": "max\n"})) is None
