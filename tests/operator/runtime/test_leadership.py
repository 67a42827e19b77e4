"""Two replicas: never both act, and one is not missed for longer than a lease."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from opkit.api import Api, kubeconfig_for, server_of
from opkit.process import OperatorProcess, busy, wait_for
from opkit.proxy import StallingProxy
from opkit.widgets import WIDGETS, widget
from rlhf_operator.common.resources import LEASES
from rlhf_operator.errors import LeadershipLost

StartOperator = Callable[..., OperatorProcess]
LEASE_SECONDS = 6
# What the machine may add to the lease: polling by the test, a process that is not scheduled at once.
MARGIN_SECONDS = 1.5


def holder(admin: Api, namespace: str) -> str:
    lease = admin.get(LEASES, namespace, "rlhf-operator")
    return str(lease["spec"]["holderIdentity"]) if lease else ""


def leader_and_standby(start: StartOperator) -> tuple[OperatorProcess, OperatorProcess]:
    leader = start("leader", IDENTITY="leader")
    leader.wait_ready()
    wait_for("the first Lease", leader.leads)
    standby = start("standby", IDENTITY="standby")
    standby.wait_ready()
    return leader, standby


def held_since(process: OperatorProcess) -> float:
    """When it took the Lease, by its log."""
    told = next(line for line in process.log().splitlines() if "holding the Lease" in line)
    return datetime.fromisoformat(json.loads(told)["time"]).timestamp()


def value_is(value: str) -> Callable[[dict[str, object]], bool]:
    return lambda obj: isinstance(status := obj.get("status"), dict) and status.get("value") == value


def test_the_standby_writes_nothing_while_the_leader_lives(admin: Api, namespace: str, start: StartOperator) -> None:
    leader, standby = leader_and_standby(start)
    for number in range(10):
        admin.create(WIDGETS, widget(namespace, f"w{number}", count=2))
    for number in range(10):
        admin.eventually(WIDGETS, namespace, f"w{number}", value_is("one"))
    # One a second: longer than a Lease that is not renewed.
    wait_for("renewals", lambda: leader.calls()["lease"] > LEASE_SECONDS + 2)
    assert standby.writes() == 0
    assert not standby.leads()
    # 3 ConfigMaps, a status and an event each: nothing was written twice.
    wait_for("the events", lambda: leader.writes() >= 10 * 5)
    assert leader.writes() == 10 * 5, leader.calls()


def test_the_standby_takes_over_within_the_lease_when_the_leader_is_killed(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    leader, standby = leader_and_standby(start)
    leader.process.kill()
    killed = time.monotonic()
    admin.create(WIDGETS, widget(namespace))
    wait_for("the take-over", standby.leads, every=0.02)
    took = time.monotonic() - killed
    assert busy() or took <= LEASE_SECONDS + MARGIN_SECONDS
    admin.eventually(WIDGETS, namespace, "w", value_is("one"))
    assert holder(admin, namespace) == "standby"


def test_a_graceful_stop_hands_over_at_once(admin: Api, namespace: str, start: StartOperator) -> None:
    leader, standby = leader_and_standby(start)
    assert leader.terminate() == 0
    ended = time.monotonic()
    wait_for("the take-over", standby.leads, every=0.02)
    # One retry period of the standby, not a whole lease.
    assert busy() or time.monotonic() - ended <= 1 + MARGIN_SECONDS
    assert holder(admin, namespace) == "standby"


def test_a_leader_that_slept_through_its_lease_writes_nothing_and_ends(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    leader, standby = leader_and_standby(start)
    os.kill(leader.pid, signal.SIGSTOP)
    wait_for("the take-over", standby.leads)
    for number in range(20):
        admin.create(WIDGETS, widget(namespace, f"w{number}"))
    # The old leader wakes up with twenty changes in its sockets and the new one half way through them.
    os.kill(leader.pid, signal.SIGCONT)
    assert leader.process.wait(60) == LeadershipLost.exit_code
    for number in range(20):
        admin.eventually(WIDGETS, namespace, f"w{number}", value_is("one"))
    wait_for("quiet", lambda: standby.metric("rlhf_operator_queue_working") == 0)
    # Every write of the twenty is the standby's: 2 ConfigMaps, a status and an event each.
    wait_for("the events", lambda: standby.writes() >= 20 * 4)
    assert standby.writes() == 20 * 4, standby.calls()


def test_a_leader_cut_off_from_the_server_ends_before_the_standby_acts(
    admin: Api, namespace: str, start: StartOperator, tmp_path: Path
) -> None:
    host, _, port = server_of(admin.kubeconfig).rpartition(":")
    with StallingProxy(host, int(port)) as proxy:
        config = kubeconfig_for(admin.kubeconfig, tmp_path / "proxied", server=f"https://127.0.0.1:{proxy.port}")
        leader = start("leader", kubeconfig=config, IDENTITY="leader")
        leader.wait_ready()
        wait_for("the first Lease", leader.leads)
        standby = start("standby", IDENTITY="standby")
        standby.wait_ready()
        proxy.stall()
        assert leader.process.wait(60) == LeadershipLost.exit_code
        wait_for("the take-over", standby.leads)
    last_words = leader.log_file.stat().st_mtime
    assert busy() or last_words < held_since(standby), "the leader gives up before anyone takes over"


def test_a_lease_taken_by_force_ends_the_process(admin: Api, namespace: str, start: StartOperator) -> None:
    leader = start("leader", IDENTITY="leader")
    leader.wait_ready()
    wait_for("the first Lease", leader.leads)
    admin.patch(LEASES, namespace, "rlhf-operator", {"spec": {"holderIdentity": "usurper"}})
    assert leader.process.wait(60) == LeadershipLost.exit_code
    assert "held by usurper" in leader.log()


def test_a_restarted_container_takes_its_dead_predecessors_lease_at_once(
    admin: Api, namespace: str, start: StartOperator
) -> None:
    lease = {"holderIdentity": "pod-1_former", "leaseDurationSeconds": 600, "renewTime": "2026-01-01T00:00:00.000000Z"}
    admin.create(LEASES, {"metadata": {"name": "rlhf-operator", "namespace": namespace}, "spec": lease})
    restarted = start("restarted", environment={"POD_NAME": "pod-1"})
    restarted.wait_ready()
    wait_for("the Lease", restarted.leads)
    assert holder(admin, namespace).startswith("pod-1_")
