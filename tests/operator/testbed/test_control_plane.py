"""A control plane of its own, brought up, broken, brought up again and taken down; the shared bed is not touched."""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import bed as beds
from testbed.bed import Bed
from testbed.binaries import require
from testbed.kubeapi import KubeApi
from testbed.paths import Paths
from testbed.processes import Daemons, alive
from testbed.progress import Progress, wait_until
from testbed.state import Profile, load
from testbed.versions import CONTROL_PLANE


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paths]:
    """A cache of its own that shares the built tools."""
    require(CONTROL_PLANE, Paths.default(), Progress())
    home = tmp_path_factory.mktemp("cache")
    made = Paths(home / "rlhf-operator")
    made.root.mkdir()
    made.tools.symlink_to(Paths.default().tools)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.delenv("TESTBED_KUBECONFIG", raising=False)
        patch.delenv("TESTBED", raising=False)
        yield made
        beds.down()


@pytest.fixture
def bed(paths: Paths) -> Bed:
    return beds.ensure(Profile.CONTROL_PLANE)


def _api(paths: Paths) -> KubeApi:
    state = load(paths.state)
    assert state is not None
    return KubeApi(state.ports.api, paths.pki)


def _status(paths: Paths, path: str, token: str | None = None) -> int:
    state = load(paths.state)
    assert state is not None
    context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", state.ports.api, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()


def test_rbac_is_on(bed: Bed, paths: Paths) -> None:
    assert _api(paths).get("/api/v1/secrets")[0] == 200
    assert _status(paths, "/api/v1/secrets") in (401, 403)
    token = bed.kubectl.run("create", "token", "default").strip()
    assert _status(paths, "/version", token) == 200
    assert _status(paths, "/api/v1/secrets", token) == 403


def test_who_does_not_trust_its_authority_can_not_talk_to_it(bed: Bed, paths: Paths) -> None:
    state = load(paths.state)
    assert state is not None
    connection = http.client.HTTPSConnection("127.0.0.1", state.ports.api, context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/version")


def test_controllers_work(bed: Bed) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work", "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}},
    }
    bed.kubectl.apply([job])
    wait_until("a pod of the Job", lambda: "pod/" in bed.kubectl.run("get", "pods", "-o", "name"), 30)
    bed.kubectl.run("delete", "job", "work")
    wait_until("the pod's collection", lambda: "pod/" not in bed.kubectl.run("get", "pods", "-o", "name"), 30)


def test_up_when_up_changes_nothing_and_prints_the_kubeconfig_only(bed: Bed, paths: Paths) -> None:
    before = Daemons(paths.daemons, paths.logs).records()
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "up"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{bed.kubeconfig}\n"
    assert Daemons(paths.daemons, paths.logs).records() == before


def test_status_names_every_daemon(bed: Bed) -> None:
    lines = beds.status()
    assert "profile control-plane" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["etcd", "kube-apiserver", "kube-controller-manager"]
    assert all("running" in line for line in lines[1:])


def test_after_a_crash_up_cleans_first_and_starts_anew(bed: Bed, paths: Paths) -> None:
    bed.kubectl.run("create", "namespace", "before-the-crash")
    daemons = Daemons(paths.daemons, paths.logs)
    survivors = [record for record in daemons.records() if record.name != "kube-apiserver"]
    crashed = daemons.get("kube-apiserver")
    assert crashed is not None
    os.kill(crashed.pid, signal.SIGKILL)
    wait_until("the API server's end", lambda: not alive(crashed), 10)
    again = beds.ensure(Profile.CONTROL_PLANE)
    assert not any(alive(record) for record in survivors)
    assert "before-the-crash" not in again.kubectl.run("get", "namespaces", "-o", "name")


def test_down_leaves_no_process_and_no_state(bed: Bed, paths: Paths) -> None:
    records = Daemons(paths.daemons, paths.logs).records()
    assert len(records) == 3
    beds.down()
    assert not any(alive(record) for record in records)
    assert not paths.bed.exists()
    beds.down()  # nothing is there: nothing happens


def test_it_is_up_within_fifteen_seconds_once_built(paths: Paths) -> None:
    beds.down()
    progress = Progress()
    beds.ensure(Profile.CONTROL_PLANE, progress)
    # Where more wants to run than there are processors, the clock measures the others.
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    assert busy or progress.elapsed_seconds <= 15, f"{progress.elapsed_seconds:.1f} s"


def test_a_given_kubeconfig_is_used_as_it_is(bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_KUBECONFIG", str(bed.kubeconfig))
    given = beds.ensure(Profile.NODE)
    assert given.kubeconfig == bed.kubeconfig
    assert not given.own
    assert "default" in given.kubectl.run("get", "namespaces", "-o", "name")
    monkeypatch.setenv("TESTBED_KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(beds.BedError, match="is not a file"):
        beds.ensure(Profile.NODE)
