"""Learning rates by step, and what rank 0 serves."""

import json
import urllib.error
import urllib.request

import pytest

from rlhf_operator.api.algorithms import Optimizer, Schedule
from rlhf_operator.api.result import CheckpointRecord, Progress
from rlhf_trainer.progress import Reporter, metric_name
from rlhf_trainer.schedule import learning_rate

DIGEST = "sha256:" + "a" * 64


def test_the_rate_rises_and_falls_to_its_floor() -> None:
    settings = Optimizer(learning_rate=1e-3, schedule=Schedule.COSINE, warmup_steps=10, min_learning_rate_ratio=0.1)
    rates = [learning_rate(settings, step, 110) for step in range(1, 111)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[59] == pytest.approx(1e-3 * 0.55)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_linear_ends_at_its_floor_and_constant_stays() -> None:
    linear = Optimizer(learning_rate=1e-3, schedule=Schedule.LINEAR, warmup_steps=0, min_learning_rate_ratio=0.0)
    assert learning_rate(linear, 5, 10) == pytest.approx(5e-4)
    assert learning_rate(linear, 10, 10) == 0
    constant = Optimizer(learning_rate=1e-3, schedule=Schedule.CONSTANT, warmup_steps=0)
    assert {learning_rate(constant, step, 10) for step in range(1, 11)} == {1e-3}


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        found: bytes = answer.read()
        return found


def test_progress_and_metrics_are_served(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(DIGEST, attempt=2, steps=10)
    port = reporter.serve(0)
    try:
        assert Progress.model_validate_json(get(port, "/progress")).step == 0
        figures = {"reward": 1.5, "kl": 0.25, "klPerToken": 0.01, "score/helpful": 0.75, "tokensPerSecond": 80.0}
        reporter.step(3, figures, eta_seconds=70.0, warnings=[f"warning {number}" for number in range(30)])
        reporter.checkpoint(CheckpointRecord(step=3, digest=DIGEST))
        progress = Progress.model_validate_json(get(port, "/progress"))
        assert (progress.step, progress.reward, progress.kl, progress.eta_seconds) == (3, 1.5, 0.25, 70.0)
        assert progress.checkpoint_step == 3
        assert progress.tokens_per_second == 80.0
        assert len(progress.warnings) == 10
        metrics = get(port, "/metrics").decode()
        assert "rlhf_kl_per_token 0.01" in metrics
        assert 'rlhf_score{scorer="helpful"} 0.75' in metrics
        assert "rlhf_steps_total 1.0" in metrics
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "/")
    finally:
        reporter.close()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["step", "checkpoint"]


def test_an_evaluation_between_steps_is_told_by_scorer(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(DIGEST, attempt=1, steps=10)
    port = reporter.serve(0)
    try:
        reporter.evaluated(5, {"helpful": 0.123456789})
        reporter.scorer_times({"helpful": 0.5})
        assert b'rlhf_scorer_seconds_p95{scorer="helpful"} 0.5' in get(port, "/metrics")
        assert b'rlhf_eval_score{scorer="helpful"} 0.123456789' in get(port, "/metrics")
    finally:
        reporter.close()
    (event,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (event["event"], event["step"], event["scores"]) == ("evaluation", 5, {"helpful": 0.123457})


def test_a_slow_or_failing_scorer_is_warned_of_beside_the_guards() -> None:
    reporter = Reporter(DIGEST, attempt=1, steps=10)
    reporter.step(1, {}, 1.0, ["guard kl"])
    reporter.scorer_times({"fast": 0.2, "slow": 1.26}, {"fast": "1 of 8 texts; the last: row 3: ValueError"})
    reading = Progress.model_validate_json(reporter.progress_json())
    assert [(each.name, each.p95_seconds) for each in reading.scorers] == [("fast", 0.2), ("slow", 1.3)]
    guard, failing, slow = reading.warnings
    assert guard == "guard kl"
    assert failing == "scorer fast failed on 1 of 8 texts; the last: row 3: ValueError"
    assert slow.startswith("scorer slow takes 1.3 s for a text")
    reporter.step(2, {}, 1.0, [])
    assert Progress.model_validate_json(reporter.progress_json()).warnings == [failing, slow], (
        "until they are told anew"
    )
    reporter.scorer_times({"fast": 0.2, "slow": 0.9})
    assert Progress.model_validate_json(reporter.progress_json()).warnings == []


def test_figures_have_prometheus_names() -> None:
    assert metric_name("klPerToken") == "rlhf_kl_per_token"
