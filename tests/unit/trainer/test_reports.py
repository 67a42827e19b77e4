"""What is told of a run beside its JSON lines: the time left, trackers, the history and its curves."""

import importlib.util
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.api.pods import Precision
from rlhf_trainer.algorithms.throughput import known_peak, peak_flops
from rlhf_trainer.curves import draw_curves
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.history import History, read_history
from rlhf_trainer.pace import Pace
from rlhf_trainer.progress import Reporter
from rlhf_trainer.tensorboard import EventFile, event, masked_crc32c
from rlhf_trainer.terminal import duration
from rlhf_trainer.trackers import trackers_of

DIGEST = "sha256:" + "a" * 64


@given(
    seed=st.integers(0, 1000),
    steps=st.sampled_from([40, 100, 500]),
    save_every=st.sampled_from([1, 7, 25]),
    evaluate_every=st.sampled_from([None, 5, 20]),
    drift=st.floats(0.85, 1.15),
)
def test_the_time_left_is_right_within_a_fifth_after_a_tenth(
    seed: int, steps: int, save_every: int, evaluate_every: int | None, drift: float
) -> None:
    """Noise of a quarter, a slow first step, steps that grow or shrink by a sixth, saves and evaluations."""
    draw = random.Random(seed)
    pace = Pace(steps, save_every, evaluate_every, evaluates_last=True)
    pace.evaluation_took(9.0)
    told: list[tuple[float, float]] = []
    now = 0.0
    for step in range(1, steps + 1):
        seconds = draw.uniform(0.75, 1.25) * drift ** (step / steps) + (4.0 if step == 1 else 0.0)
        now += seconds
        pace.step_took(seconds)
        left = pace.seconds_left(step)
        assert left is not None
        told.append((now, left))
        if pace.evaluates(step):
            now += 9.0
            pace.evaluation_took(9.0)
        if step % save_every == 0 or step == steps:
            now += 3.0
            pace.save_took(3.0)
    now += 9.0
    tenth = max(steps // 10, save_every + 1)
    for at, left in told[tenth : steps * 3 // 4]:
        assert left == pytest.approx(now - at, rel=0.2)


def test_nothing_is_said_of_the_time_before_a_step() -> None:
    assert Pace(10, 5).seconds_left(0) is None


def test_checksums_are_those_of_tfrecord() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4 has the polynomial), masked as TFRecord does.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_an_event_holds_time_step_and_scalars() -> None:
    # As TensorBoard's own protobuf writes it (read back with its EventAccumulator when this was made).
    value = b"\x0a\x02kl\x15" + struct.pack("<f", 0.5)
    summary = b"\x0a" + bytes([len(value)]) + value
    expected = b"\x09" + struct.pack("<d", 2.0) + b"\x10\xac\x02" + b"\x2a" + bytes([len(summary)]) + summary
    assert event(2.0, 300, {"kl": 0.5}) == expected


def test_an_event_file_is_whole_after_every_step(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "tb")
    file.step(1, {"reward": 1.0})
    (path,) = (tmp_path / "tb").iterdir()
    data, records = path.read_bytes(), 0
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(data[12 : 12 + length])
        data, records = data[16 + length :], records + 1
    assert records == 2
    file.close()


def test_a_tool_that_is_asked_for_and_not_installed_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said: list[str] = []
    asked = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "WANDB_API_KEY": "secret", "TENSORBOARD_LOGGING_DIR": "tb"}
    found = trackers_of(asked, "job", "job-1", tmp_path, lambda name, **fields: said.append(fields["message"]))
    assert [type(tracker).__name__ for tracker in found] == ["EventFile"]
    found[0].close()
    assert len(said) == 2
    assert "MLFLOW_TRACKING_URI" in said[0]
    assert "wandb" in said[1]
    assert "secret" not in "".join(said)
    assert (tmp_path / "tb").is_dir()


class Failing:
    """A tracker whose server is away."""

    calls = 0

    def step(self, step: int, figures: Any) -> None:
        """Fail."""
        self.calls += 1
        raise ConnectionError("no route to mlflow")

    def close(self) -> None:
        """Nothing to close."""


def test_a_tracker_that_fails_is_let_go_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Failing()
    reporter = Reporter(DIGEST, attempt=1, steps=3, trackers=[tracker])
    reporter.step(1, {"reward": 1.0}, 2.0, [])
    reporter.step(2, {"reward": 1.0}, None, [])
    assert tracker.calls == 1
    assert capsys.readouterr().out.count("no route to mlflow") == 1


def test_the_history_is_joined_over_attempts_and_the_newest_counts(tmp_path: Path) -> None:
    for attempt, steps in ((1, [1, 2, 3]), (2, [3, 4])):
        workspace = Workspace(tmp_path / "job", attempt)
        workspace.claim()
        history = History(workspace.own)
        for step in steps:
            history.step(step, {"reward": float(10 * attempt + step)})
        history.close()
    with (workspace.own / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    found = read_history(workspace)
    assert {step: figures["reward"] for step, figures in found.items()} == {1: 11.0, 2: 12.0, 3: 23.0, 4: 24.0}
    png = draw_curves(found)
    assert png is not None
    assert png.startswith(b"\x89PNG")


def test_a_history_without_a_curve_draws_nothing() -> None:
    assert draw_curves({}) is None
    assert draw_curves({1: {"secondsStep": 1.0}}) is None


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12 s"), (300, "5 min"), (12_000, "3 h 20 min")])
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", Precision.BF16, 989e12),
        ("NVIDIA H100 PCIe", Precision.BF16, 756e12),
        ("NVIDIA A100-SXM4-80GB", Precision.FP32, 19.5e12),
        ("A card of tomorrow", Precision.BF16, None),
    ],
)
def test_the_share_of_arithmetic_is_told_only_of_gpus_that_are_known(
    name: str, precision: Precision, peak: float | None
) -> None:
    assert known_peak(name, precision) == peak
    assert peak_flops(torch.device("cpu"), precision) is None
