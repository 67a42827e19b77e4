"""The progress line and the final figures."""

import io

import pytest

from demo import report, watch


def status(**fields: object) -> dict[str, object]:
    return {"status": fields}


def test_a_running_job_shows_step_reward_kl_and_time_left() -> None:
    text = watch.describe(
        status(phase="Running", progress={"step": 5, "steps": 20, "reward": 1.25, "kl": 3.0, "etaSeconds": 42})
    )
    assert "step 5/20" in text
    assert "[#####...............]" in text
    assert "reward 1.250" in text
    assert "KL 3.000" in text
    assert "42 s left" in text


def test_a_job_without_progress_shows_its_message() -> None:
    assert "waiting for claim" in watch.describe(status(phase="Pending", message="waiting for claim"))


def test_a_job_without_status_is_pending() -> None:
    assert watch.describe({"spec": {}}).strip() == "Pending"


def test_without_a_terminal_each_change_is_one_line_and_not_too_often() -> None:
    stream, now = io.StringIO(), [0.0]
    line = watch.Line(stream, every=5.0, clock=lambda: now[0])
    for second, text in ((0, "a"), (1, "b"), (5, "b"), (6, "b"), (12, "b"), (13, "c")):
        now[0] = second
        line.show(text, last=text == "c")
    assert [entry.split("] ")[1] for entry in stream.getvalue().splitlines()] == ["a", "b", "c"]


def test_figures_stand_side_by_side() -> None:
    job = status(
        progress={"reward": 2.5, "kl": 6.5},
        evaluation={
            "comparisons": [
                {"scorer": "gold", "baseline": "Base", "winRate": 0.9, "lower": 0.8, "upper": 0.95, "mean": 0.97}
                | {"baselineMean": 0.5}
            ]
        },
    )
    text = "\n".join(report.figures(job, 0.75))
    assert "0.750    2.500" in text
    assert "0.500    0.970" in text
    assert "wins 0.90 against Base, 95 % [0.80, 0.95]" in text
    assert "6.500" in text


def test_the_digest_is_printed_in_full() -> None:
    digest = "sha256:" + "ab" * 32
    lines = report.identity(status(artifact={"digest": digest, "ref": "pvc://models/artifact", "gate": "Passed"}))
    assert f"artifact  {digest}" in lines
    assert "lies at   pvc://models/artifact" in lines


@pytest.mark.parametrize("value", [None, "x"])
def test_what_is_no_figure_is_a_dash(value: object) -> None:
    assert report.number(value) == "-"
