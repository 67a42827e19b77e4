"""A real vLLM per kind of model, and judges in front of it."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from judgekit.models import Kind, as_version, make
from judgekit.process import EngineProcess, JudgeProcess
from judgekit.versions import Version
from testbed import serverenv


@dataclass
class Served:
    """A version and the vLLM that holds its model."""

    version: Version
    heads: int
    engine: EngineProcess
    prefix: Path


@pytest.fixture(scope="session")
def prefix() -> Path:
    """The Python environment that vLLM is in."""
    return serverenv.ensure()


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One vLLM for the module's tests; parametrized with (kind, heads), by default an encoder with three heads."""
    kind, heads = getattr(request, "param", (Kind.ENCODER, 3))
    folder = tmp_path_factory.mktemp(f"{kind}-{heads}")
    version = as_version(make(folder / "model", kind, heads), heads)
    with EngineProcess(version.directory, folder / "vllm.log", prefix) as engine:
        engine.wait_ready()
        yield Served(version, heads, engine, prefix)


Hold = Callable[..., JudgeProcess]


@pytest.fixture(scope="module")
def module_judges(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hold]:
    with ExitStack() as stack:
        yield _holder(stack, served, tmp_path_factory.mktemp("judges"))


@pytest.fixture
def hold(served: Served, tmp_path: Path) -> Iterator[Hold]:
    """Start a judge in front of the module's vLLM: of its version, or of one of the test's own."""
    with ExitStack() as stack:
        yield _holder(stack, served, tmp_path)


@pytest.fixture(scope="module")
def judge(module_judges: Hold) -> JudgeProcess:
    """A ready judge of the served version."""
    process = module_judges()
    process.wait_ready()
    return process


@pytest.fixture
def copy(served: Served, tmp_path: Path) -> Path:
    """A copy of the version's files to spoil."""
    return Path(shutil.copytree(served.version.directory, tmp_path / "copy"))


def _holder(stack: ExitStack, served: Served, folder: Path) -> Hold:
    numbers = itertools.count()

    def start(version: Version | None = None, **settings: str) -> JudgeProcess:
        settings = {"engine_poll_seconds": "0.2", "linger_seconds": "0", **settings}
        process = JudgeProcess(
            version or served.version,
            folder / f"judge-{next(numbers)}.log",
            served.engine.url,
            str(served.prefix / "bin" / "python"),
            **settings,
        )
        return stack.enter_context(process)

    return start
