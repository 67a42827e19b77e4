"""What holds for every history: one live attempt, numbers that only rise, restarts within bounds, rest at the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.rlhfjob.finished import finished
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.runs.ledger import KEPT
from rlhf_operator.runs.views import JobView, PodView

from .factory import DIGEST, FOUND, Cluster, dead, frozen, observed, pod, spec_of, verdict
from .test_finishing import artifact

EXIT_CODES = (70, 75, 78, 80, 81, 82, 83, 84, 137)

Happening = tuple[str, Any]
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("exit"), st.tuples(st.sampled_from(EXIT_CODES), st.sampled_from(EXIT_CODES))),
        st.tuples(st.just("exit"), st.tuples(st.just(82), st.sampled_from(EXIT_CODES))),
        st.tuples(st.just("drain"), st.integers(0, 1)),
        st.tuples(st.just("succeed"), st.none()),
        st.tuples(st.just("lost"), st.none()),
        st.tuples(st.just("vanish"), st.none()),
        st.tuples(st.just("suspend"), st.booleans()),
        st.tuples(st.just("run"), st.none()),
        st.tuples(st.just("publish"), st.sampled_from(["Passed", "Failed"])),
        st.tuples(st.just("collect"), st.booleans()),
        st.tuples(st.just("wait"), st.integers(1, 4000)),
    ),
    max_size=25,
)


def happen(cluster: Cluster, what: str, detail: Any) -> None:
    """Something outside the operator's control happens to the newest attempt."""
    view = cluster.observed
    if what == "wait":
        cluster.now += timedelta(seconds=detail)
        return
    if what == "suspend":
        cluster.observed = replace(view, spec=spec_of(suspend=detail, maxRestarts=3))
        return
    if what == "publish":
        if view.publish is not None and not view.publish.finished:
            said = verdict(artifact=artifact(gate=detail))
            cluster.observed = replace(view, publish=replace(view.publish, complete=True, verdict=said))
        return
    if what == "collect":
        if view.collect is not None and not view.collect.finished:
            ended = {"complete": True, "verdict": verdict()} if detail else {"failed": True}
            cluster.observed = replace(view, collect=replace(view.collect, **ended))
        return
    live = view.live
    if live is None or live.finished:
        return
    if what == "vanish":
        cluster.observed = replace(view, attempts=view.attempts[:-1])
        return
    cluster.observed = replace(view, attempts=(*view.attempts[:-1], _after(live, what, detail)))


def _after(live: JobView, what: str, detail: Any) -> JobView:
    pods: tuple[PodView, ...]
    match what:
        case "run":
            return replace(live, pods=(pod(0), pod(1)))
        case "exit":
            return replace(live, pods=(dead(0, detail[0]), dead(1, detail[1])), failed=True)
        case "drain":
            pods = tuple(
                dead(i, 75 if i == detail else 82, disruption="Eviction" if i == detail else None) for i in (0, 1)
            )
            return replace(live, pods=pods, failed=True)
        case "succeed":
            said = verdict()
            return replace(live, pods=(dead(0, 0), dead(1, 0)), complete=True, verdict=said)
        case _:
            return replace(live, pods=(), complete=True)


def settle(cluster: Cluster) -> None:
    """Reconcile until nothing changes, checking every step. Waiting is not settling: time stands still."""
    for _ in range(20):
        before = cluster.observed
        plan = reconcile(before, cluster.now)
        numbers_before = [record.number for record in before.status.attempts]
        cluster.execute(plan)
        view = cluster.observed
        assert len([job for job in view.attempts if not job.deleting]) <= 1
        numbers = [record.number for record in view.status.attempts]
        assert numbers == sorted(numbers)
        assert len(numbers) <= KEPT
        assert max(numbers, default=0) >= max(numbers_before, default=0)
        if view.status == before.status and not plan.create and not plan.delete:
            return
    raise AssertionError(f"does not settle: {plan}")


@given(happenings)
def test_any_history(history: list[Happening]) -> None:
    spec = spec_of(maxRestarts=3)
    cluster = Cluster(observed(spec, references=FOUND))
    settle(cluster)
    for what, detail in history:
        happen(cluster, what, detail)
        settle(cluster)
        # Again at the same moment: nothing is left to do.
        again = reconcile(cluster.observed, cluster.now)
        assert (again.create, again.delete) == ((), ())
        assert again.status is None or again.status == cluster.observed.raw_status
    trained = [name for name in cluster.created if "-train-" in name]
    assert trained == sorted(set(trained), key=lambda name: int(name.rsplit("-", 1)[1]))
    assert (cluster.observed.status.restarts or 0) <= 3
    if finished(cluster.observed):
        assert cluster.observed.status.completion_time is not None


def test_the_factory_itself_reaches_complete() -> None:
    """Guards the property above against a history in which nothing ever happens."""
    cluster = Cluster(observed(spec_of(maxRestarts=3), references=FOUND))
    settle(cluster)
    for what, detail in (("run", None), ("exit", (82, 70)), ("wait", 10), ("succeed", None), ("publish", "Passed")):
        happen(cluster, what, detail)
        settle(cluster)
    assert cluster.created == ["assistant-train-1", "assistant-train-2", "assistant-publish-2"]
    assert cluster.observed.status.artifact is not None
    assert cluster.observed.status.artifact.digest == DIGEST
    assert cluster.observed.plan == frozen()
