"""`make demo SHORT=1` as a newcomer runs it, and real rows of one's own. The whole demo: test_quickstart_loop.py."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed
from demo import __main__ as program
from demo.cluster import Cluster
from testbed.binaries import require
from testbed.progress import Progress

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMESPACE = "rlhf-demo-test"
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RLHF_DATA", ROOT.parent / "shared" / "data")) / "pandalm_human_preferences.jsonl"
DIGEST = re.compile(r"^artifact  (sha256:[0-9a-f]{64})$", re.MULTILINE)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The bed, for a look at what the demo left; its objects go away afterwards."""
    bed = testbed.ensure(testbed.Profile.NODE, Progress(), gateway=False)
    helm = require(["helm"], bed.paths, Progress())["helm"]
    found = Cluster(bed.kubectl_binary, helm, bed.kubeconfig, NAMESPACE)
    yield found
    # Waited for: the next test uses the same namespace, which takes nothing new while it goes.
    found.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=5m")


def figure(text: str, name: str) -> tuple[float, float]:
    """Before and after, from a line of the demo's table."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    before, after = re.findall(r"-?\d+\.\d+|(?<= )0(?= )", line)[:2]
    return float(before), float(after)


def test_quickstart_trains_a_better_policy_and_says_so(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    code = program.main(["--short", "--namespace", NAMESPACE, "--build", str(ROOT / "build" / "demo")])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "step 30/30" in told.err

    before, after = figure(told.out, "reward")
    assert after > before + 0.3, told.out
    before, after = figure(told.out, "gold")
    assert after > before + 0.1, told.out
    _, kl = figure(told.out, "KL")
    assert kl > 0.1, told.out
    digest = DIGEST.search(told.out)
    assert digest, told.out
    assert "lies at   pvc://quickstart/" in told.out
    assert "gate      Passed" in told.out
    assert told.out.count("  before: ") == told.out.count("  after:  ") == 5

    job = cluster.get("rlhfjob", "quickstart")
    assert job is not None
    assert job["status"]["artifact"]["digest"] == digest.group(1)
    assert cluster.run("wait", "rlhfjob/quickstart", "--for=condition=Complete", "--timeout=1s")


@pytest.mark.skipif(not DATA.is_file(), reason=f"the real data is not at {DATA}; RLHF_DATA names its folder")
def test_demo_trains_on_real_preferences_and_counts_every_row_it_drops(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--short", "--namespace", NAMESPACE, "--build", str(ROOT / "build" / "demo"), "--data", str(DATA)]
    code = program.main(arguments)
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "dropped 6: NonStringResponse" in told.err
    rows, usable = map(int, re.findall(r"(\d+) rows, (\d+) usable", told.err)[0])
    dropped = sum(map(int, re.findall(r"dropped (\d+):", told.err)))
    assert rows == 602
    assert usable + dropped == rows
    assert "the reward: 2 x ROUGE-L overlap with the preferred answer" in told.err
    assert DIGEST.search(told.out), told.out
    # Fifteen steps of a tiny model on real text: it moved, and was judged on prompts it never saw.
    _, kl = figure(told.out, "KL")
    assert kl > 0, told.out
    assert "overlap (held-out prompts)" in told.out
    job = cluster.get("rlhfjob", "own-rows")
    assert job is not None
    assert job["status"]["artifact"]["datasetDigests"]
