"""The termination messages of the pods that publish and collect."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.exitcodes import ExitCode, FailureClass
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import TerminationMessage
from rlhf_trainer import collect, publish

from .conftest import Finish


@pytest.fixture
def last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TerminationMessage]:
    log = tmp_path / "termination-log"
    monkeypatch.setenv("RLHF_TERMINATION_LOG", str(log))
    return lambda: TerminationMessage.model_validate_json(log.read_bytes())


def arguments(plan: TrainingPlan, tmp_path: Path, workspace: Path, **more: Any) -> argparse.Namespace:
    path = tmp_path / "plan.json"
    path.write_text(plan.canonical())
    return argparse.Namespace(plan=path, workspace=workspace, settings=None, **more)


def test_publish_says_its_last_words(
    plan: TrainingPlan,
    workspace: Path,
    output: Path,
    tmp_path: Path,
    finish: Finish,
    last_words: Callable[[], TerminationMessage],
) -> None:
    given = arguments(plan, tmp_path, workspace, output=output, key=None)
    assert publish.main(given) == ExitCode.CRASH
    assert (last_words().reason, last_words().failure) == ("NoResult", FailureClass.CRASH)
    finish(policy_text="no")
    assert publish.main(given) == ExitCode.OK
    assert last_words().reason == "GateFailed"
    shutil.rmtree(workspace)
    finish()
    assert publish.main(given) == ExitCode.OK
    artifact = last_words().artifact
    assert artifact is not None
    assert artifact.gate == "Passed"
    assert last_words().evaluation[0].win_rate == 1.0
    (workspace / "result.json").write_text("{}")
    assert publish.main(given) == ExitCode.CONFIG
    assert last_words().reason == "ResultUnreadable"


def test_collect_says_what_the_run_said(
    plan: TrainingPlan,
    workspace: Path,
    tmp_path: Path,
    finish: Finish,
    last_words: Callable[[], TerminationMessage],
) -> None:
    given = arguments(plan, tmp_path, workspace)
    assert collect.main(given) != ExitCode.OK
    assert last_words().failure is FailureClass.RESULT_UNKNOWN
    finish()
    assert collect.main(given) == ExitCode.OK
    assert (last_words().failure, last_words().step, last_words().reason) == (None, 2, "Complete")
    assert last_words().evaluation[0].scorer == "yes"
    (workspace / "result.json").write_text('{"planDigest": 3')
    assert collect.main(given) != ExitCode.OK
    assert last_words().reason == "ResultUnreadable"
    given.plan.write_text("{}")
    assert collect.main(given) == ExitCode.CONFIG
    assert last_words().reason == "PlanInvalid"
