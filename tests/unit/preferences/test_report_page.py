import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_trainer.preferences.calibration import Temperature
from rlhf_trainer.preferences.evaluate import evaluate
from rlhf_trainer.preferences.judged import Judged
from rlhf_trainer.preferences.must_prefer import MustPrefer, must_prefer
from rlhf_trainer.preferences.prepare import prepare_judgements
from rlhf_trainer.preferences.probes import effects, variants
from rlhf_trainer.preferences.report import RewardReport
from rlhf_trainer.preferences.report_page import page, write_report

from .conftest import THREE, MakePlan, dataset, word, write_lines

HOSTILE = "<script>alert(1)</script>\"'&$\\frac{a}$ <img src=http://x.example/y onerror=z>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RewardReport:
    """Everything a report can hold, every name in it hostile."""
    from .conftest import reward_plan

    folder = tmp_path_factory.mktemp("report")
    annotators = {name: f"{name} {HOSTILE}" for name in "xyz"}
    rows = [
        {"prompt": f"{word(at)} {word(at + 9)}", "a": f"{word(at)}. Good.", "b": f"bad {word(at)}", HOSTILE: HOSTILE}
        | dict(zip(annotators.values(), (1 + at % 2, 1 + at % 2, 1 + at % 3 % 2), strict=True))
        for at in range(40)
    ]
    rows.append({"prompt": HOSTILE, "a": True, "b": HOSTILE} | dict.fromkeys(annotators.values(), 1))
    columns = THREE | {"annotators": list(annotators.values()), "category": HOSTILE}
    data = dataset(write_lines(folder / "d.jsonl", *rows), **columns) | {"ref": HOSTILE}
    plan = reward_plan(data, evaluation={"folds": 2}, aggregation={"method": "ReliabilityWeighted"})
    judgements = prepare_judgements(plan, folder)
    held_out = [row for parts in judgements.rounds for row in parts.held_out]
    first = [float(len(row.first)) for row in held_out]
    second = [float(len(row.second or "")) for row in held_out]
    found = evaluate("overall", held_out, first, second, temperatures=[Temperature()], slice_min_samples=5, seed=1)
    changed = variants(held_out)
    biases = effects(changed, [float(len(v.plain)) for v in changed], [float(len(v.changed)) for v in changed])
    missed = must_prefer([MustPrefer(1, HOSTILE, "a", "b")], [0.0], [1.0])
    dimension = found.model_copy(update={"biases": tuple(biases), "must_prefer": missed})
    return RewardReport(name=HOSTILE, plan_digest="sha256:00", dimensions=(dimension,), data=judgements.data)


class Reader(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_on_the_page_runs_or_is_fetched_whatever_the_data_is_called(report: RewardReport) -> None:
    html = page(report)
    reader = Reader()
    reader.feed(html)
    assert not reader.tags & {"script", "img", "iframe", "object", "embed", "link", "foreignobject", "form"}
    assert not any(name.startswith("on") for name, _ in reader.attributes)
    addresses = {value for name, value in reader.attributes if name in ("src", "href", "xlink:href")}
    assert all((value or "").startswith("#") for value in addresses)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert HOSTILE in reader.text


def test_everything_that_was_measured_is_on_the_page(report: RewardReport) -> None:
    html = page(report)
    for words in (
        "longer answer wins", "mustPrefer", "Bias probes", "does not apply", "Slices", "NonStringResponse", "row 41:",
        "Krippendorff", "Cohen", "inferred reliability", "the version itself", "expected error",
    ):  # fmt: skip
        assert words in html, words
    assert html.count("<svg") >= 6


def test_the_same_report_gives_the_same_bytes(report: RewardReport, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_report(report, tmp_path / "one")
    write_report(RewardReport.model_validate_json((tmp_path / "one" / "report.json").read_bytes()), tmp_path / "two")
    for name in ("report.json", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_report_without_figures_says_so(make_plan: MakePlan) -> None:
    html = page(RewardReport(name="rules", plan_digest="sha256:00", dimensions=()))
    assert "Nothing was measured." in html
    empty = evaluate("overall", [], [], [], temperatures=[], seed=0)
    assert "No held-out comparison" in page(RewardReport(name="m", plan_digest="sha256:00", dimensions=(empty,)))


def test_lone_responses_alone_have_a_page(make_plan: MakePlan) -> None:
    rows = [Judged(at, f"p{at}", f"t{at}", None, float(at % 2), False, 1.0, "overall", at) for at in range(20)]
    found = evaluate("overall", rows, [float(at % 3) for at in range(20)], [None] * 20, temperatures=[], seed=0)
    assert "no length to compare with" in page(RewardReport(name="m", plan_digest="sha256:00", dimensions=(found,)))
