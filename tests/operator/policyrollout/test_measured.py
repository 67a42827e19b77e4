"""Rollouts whose steps are measured: a real Prometheus scrapes what the pods of both revisions would expose."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from opkit.api import Object, condition
from opkit.clock import COMMAND, OFF
from opkit.process import OperatorProcess
from opkit.prometheus import RunningPrometheus, exposed, prometheus
from rlhf_operator.api import signals
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import HTTPROUTES
from testbed.bed import Bed

from .conftest import FAST, World, artifact, opened, variant

pytestmark = pytest.mark.timeout(300)

ROLLOUT = "assistant"
STEPS = [{"name": "ten", "weight": 10, "hold": {"minimum": "2s", "samples": 250}}]
ERRORS = {"name": "errors", "preset": {"errorRate": {"max": 0.05}}}


@dataclass
class Requests:
    """What users sent to the revisions of one rollout: so many a second, of which a share fails."""

    namespace: str = ""
    revisions: tuple[str, ...] = ()
    per_second: float = 50.0
    failing: float = 0.0
    _count: float = 0.0
    _at: float = 0.0

    def text(self) -> str:
        """The exposition of both revisions' pods now."""
        now = time.monotonic()
        self._count += self.per_second * (now - self._at) if self._at else 0.0
        self._at = now
        lines = []
        for revision in self.revisions:
            failing = self.failing if revision == self.revisions[-1] else 0.0
            who = f'rlhf_namespace="{self.namespace}",rlhf_rollout="{ROLLOUT}",revision="{revision}",role="live"'
            lines += [
                f'{signals.REQUESTS}{{{who},outcome="ok"}} {self._count * (1 - failing)}',
                f'{signals.REQUESTS}{{{who},outcome="error"}} {self._count * failing}',
            ]
        return "\n".join(lines) + "\n"


@dataclass
class Measured:
    """A namespace whose rollouts an operator measures."""

    world: World
    requests: Requests
    server: RunningPrometheus

    def candidate(self, metrics: list[Object] | None = None, **requests: Any) -> tuple[str, str]:
        """One serves alone, two is at ten percent, both are asked; returns both revisions."""
        world = self.world
        analysis = {"interval": "1s", "metrics": metrics or [ERRORS]}
        strategy = {"steps": STEPS, "bake": "1s", "scaleDownDelay": "1s"}
        world.apply(ROLLOUT, strategy=strategy, analysis=analysis)
        one = variant(world.serves(ROLLOUT, sha256_of(b"one")), "Stable")["revision"]
        world.patch(ROLLOUT, model={"artifact": artifact("two")})
        two = variant(world.until(ROLLOUT, lambda seen: variant(seen, "Candidate").get("weight") == 10), "Candidate")[
            "revision"
        ]
        for name, value in {"namespace": world.namespace, "revisions": (one, two), **requests}.items():
            setattr(self.requests, name, value)
        return one, two

    def rounds(self, count: int, holds: Callable[[Object], bool] = lambda _: True) -> Object:
        """Let so many rounds of measurements pass in each of which something holds of the status; returns the last."""
        at: list[str] = []

        def passed(seen: Object) -> bool:
            for each in seen.get("analysis", ())[:1]:
                if each["at"] not in at:
                    assert holds(seen), seen
                    at.append(each["at"])
            return len(at) > count

        return self.world.until(ROLLOUT, passed, 60)


@pytest.fixture(scope="module")
def requests() -> Requests:
    return Requests()


@pytest.fixture(scope="module")
def server(requests: Requests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    with (
        exposed(lambda: requests.text()) as port,
        prometheus(tmp_path_factory.mktemp("prometheus"), port) as running,
    ):
        yield running


@pytest.fixture
def off(request: pytest.FixtureRequest) -> int:
    """By how many seconds the operator's clock is off."""
    return int(getattr(request, "param", 0))


@pytest.fixture
def measured(bed: Bed, requests: Requests, server: RunningPrometheus, tmp_path: Path, off: int) -> Iterator[Measured]:
    with opened(bed, "measured") as world:
        found = {"PROMETHEUS_URL": server.url, "PROMETHEUS_SCRAPE_SECONDS": "1"}
        settings = FAST | {"NAMESPACES": world.namespace} | found
        operator = OperatorProcess(
            tmp_path, bed.kubeconfig, command=COMMAND, settings=settings, environment={OFF: str(off)}
        )
        with operator, operator.sound():
            operator.wait_ready(60)
            yield Measured(world, requests, server)
    vars(requests).update(vars(Requests()))


def advances_not(one: str, two: str) -> Callable[[Object], bool]:
    """Holds while the candidate stands in its step, with its weight, and nobody is blamed."""

    def holds(seen: Object) -> bool:
        at = (seen.get("step") or {}).get("name")
        weights = {name: variant(seen, name).get("weight") for name in ("Stable", "Candidate")}
        return at == "ten" and weights == {"Stable": 90, "Candidate": 10} and not seen.get("rejected")

    return holds


def test_a_candidate_whose_requests_fail_goes_back_and_says_why(measured: Measured) -> None:
    one, two = measured.candidate(failing=0.3)
    world = measured.world
    status = world.until_condition(ROLLOUT, "RolledBack", "True", "AnalysisFailed")
    assert world.weights(ROLLOUT) == {one: 100}
    entry = status["history"][0]
    assert (entry["revision"], entry["outcome"]) == (two, "RolledBack")
    assert entry["message"].startswith("ErrorRate 0."), entry
    assert "over 0.05 after" in entry["message"], entry
    assert "10 %" in condition(status, "RolledBack")["message"], status
    # Whoever looks at it again, a GitOps tool that applies the same spec for one, does not try it again.
    world.patch(ROLLOUT, model={"artifact": artifact("two")})
    world.patch(ROLLOUT, revisionHistoryLimit=7)
    seen = world.until(ROLLOUT, lambda seen: seen["observedGeneration"] > status["observedGeneration"])
    assert not variant(seen, "Candidate")
    assert world.weights(ROLLOUT) == {one: 100}


@pytest.mark.parametrize("off", [-600, 600], indirect=True)
def test_an_operator_whose_clock_is_ten_minutes_off_decides_as_one_whose_is_right(measured: Measured, off: int) -> None:
    one, two = measured.candidate(failing=0.3)
    world = measured.world
    status = world.until_condition(ROLLOUT, "RolledBack", "True", "AnalysisFailed")
    told = datetime.fromisoformat(status["history"][0]["to"])
    assert abs((told - datetime.now(UTC)).total_seconds() - off) < 120, "its clock is not off"
    assert world.weights(ROLLOUT) == {one: 100}
    measured.requests.failing = 0.0
    world.command(ROLLOUT, f"c1 retry {two} - alice")
    world.serves(ROLLOUT, sha256_of(b"two"))


def test_traffic_that_stops_in_the_middle_of_a_step_moves_nothing_until_it_is_back(measured: Measured) -> None:
    one, two = measured.candidate(per_second=0.0)
    seen = measured.rounds(5, advances_not(one, two))
    (errors,) = seen["analysis"]
    assert errors["outcome"] == "Inconclusive", errors
    measured.requests.per_second = 50.0
    measured.world.serves(ROLLOUT, sha256_of(b"two"))


def test_what_is_no_figure_neither_passes_nor_fails(measured: Measured) -> None:
    queries = {
        "empty": "a_metric_that_nobody_has",
        "several": f'{signals.REQUESTS}{{revision="{{{{ .Candidate }}}}"}}',
        "nan": "vector(0) / vector(0)",
        "infinite": "vector(1) / vector(0)",
    }
    own = [
        {"name": name, "query": {"value": query, "samples": "vector(100)", "failure": "result > 1"}}
        for name, query in queries.items()
    ]
    one, two = measured.candidate(own)
    seen = measured.rounds(5, advances_not(one, two))
    found = {each["metric"]: each for each in seen["analysis"]}
    assert {name: each["reason"] for name, each in found.items()} == {
        "empty": "Empty",
        "several": "SeveralSeries",
        "nan": "NotANumber",
        "infinite": "Infinite",
    }
    assert {each["outcome"] for each in found.values()} <= {"Inconclusive", "Error"}, found


def test_a_prometheus_that_hangs_holds_the_rollout_up_and_is_named(measured: Measured) -> None:
    one, two = measured.candidate()
    measured.server.process.send_signal(signal.SIGSTOP)
    try:
        seen = measured.world.until_condition(ROLLOUT, "AnalysisHealthy", "False", "AnalysisBroken")
        assert advances_not(one, two)(seen), seen
    finally:
        measured.server.process.send_signal(signal.SIGCONT)
    measured.world.serves(ROLLOUT, sha256_of(b"two"))


def test_a_spec_that_changes_in_the_middle_of_a_step_starts_with_the_newest_and_back_to_stable_blames_nobody(
    measured: Measured,
) -> None:
    one, two = measured.candidate(per_second=0.0)
    world = measured.world
    world.patch(ROLLOUT, model={"artifact": artifact("three")})
    seen = world.until(ROLLOUT, lambda seen: variant(seen, "Candidate").get("digest") == sha256_of(b"three"))
    three = variant(seen, "Candidate")["revision"]
    world.until(ROLLOUT, lambda seen: variant(seen, "Candidate").get("weight") == 10)
    assert world.weights(ROLLOUT) == {one: 90, three: 10}
    world.patch(ROLLOUT, model={"artifact": artifact("one")})
    seen = world.serves(ROLLOUT, sha256_of(b"one"))
    assert world.weights(ROLLOUT) == {one: 100}
    assert not seen.get("rejected")
    ends = {each["revision"]: each["outcome"] for each in seen["history"]}
    assert (ends[two], ends[three]) == ("Superseded", "Superseded"), seen["history"]
    route = world.api.get(HTTPROUTES, world.namespace, ROLLOUT)
    assert route is not None
    assert route["metadata"]["annotations"]["rlhf.dev/rejected"] == "[]"
