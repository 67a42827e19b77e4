"""`make demo` from its first act to its last: a reward model, policies, live users, and candidates that go back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import testbed
from demo import __main__ as program
from demo.cluster import Cluster
from demo.users import AWAY
from e2e.test_quickstart import ROOT
from testbed.binaries import require
from testbed.progress import Progress

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(7200)]

NAMESPACE = "rlhf-demo-loop"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The bed, for a look at what the demo left; its objects go away afterwards."""
    bed = testbed.ensure(testbed.Profile.NODE, Progress())
    helm = require(["helm"], bed.paths, Progress())["helm"]
    found = Cluster(bed.kubectl_binary, helm, bed.kubeconfig, NAMESPACE)
    yield found
    found.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=5m")


def count(pattern: str, text: str) -> int:
    """The number at a place in a text; 0 where there is no such place."""
    found = re.search(pattern, text)
    return int(found.group(1).replace(",", "")) if found else 0


def test_the_loop_promotes_what_is_better_and_takes_back_what_is_not(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code = program.main(["--namespace", NAMESPACE, "--build", str(ROOT / "build" / "demo")])
    told = capsys.readouterr()
    assert code == 0, told.err
    rollout = cluster.get("policyrollout", "assistant")
    assert rollout is not None
    faulty, hacked, better = rollout["status"]["history"][:3]
    assert [each["outcome"] for each in (better, hacked, faulty)] == ["Promoted", "RolledBack", "RolledBack"]
    assert "RewardWinRate" in hacked["message"]
    assert "ErrorRate" in faulty["message"]
    (stable,) = (each for each in rollout["status"]["variants"] if each["name"] == "Stable")
    assert (stable["revision"], stable["weight"]) == (better["revision"], 100)
    assert {each["revision"] for each in rollout["status"]["rejected"]} == {hacked["revision"], faulty["revision"]}

    # The table went through every step, and nobody who asked saw an error: both bad ones were found by copies alone.
    for step in ("1 of 3: step shadow", "2 of 3: step ten", "3 of 3: step half"):
        assert step in told.err
    assert count(r"users: ([\d,]+) asked", told.out) > 100
    # An Envoy that answers its probe late on a busy machine leaves its Service: nobody listens, whatever the rollout.
    assert count(r"asked, ([\d,]+) failed", told.out) == count(rf"([\d,]+) {AWAY}", told.out), told.out
    answered = told.out.split("answered by:")[1]
    assert "first" in answered
    assert "better" in answered
    assert "hacked" not in answered
    cluster.wait("the users are gone", lambda: cluster.get("pod", "users") is None, 60)
