"""Small pure parts: profiles and state, volumes for claims, the pod template of the host's environment, DNS replies."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.common.podsecurity import CACHES
from testbed import dns, monitoring
from testbed.__main__ import main
from testbed.errors import BedError, InvalidStateError
from testbed.kwok import stages
from testbed.node import check_socket_path
from testbed.paths import Paths
from testbed.podenv import PodEnvironment, compose, folders_for
from testbed.state import BedState, Ports, Profile, choose_ports, load
from testbed.volumes import PROVISIONER, folder_to_remove, volume_for


def test_a_node_serves_who_wants_a_control_plane_and_not_the_other_way() -> None:
    assert Profile.NODE.covers(Profile.CONTROL_PLANE)
    assert Profile.NODE.covers(Profile.NODE)
    assert Profile.CONTROL_PLANE.covers(Profile.CONTROL_PLANE)
    assert not Profile.CONTROL_PLANE.covers(Profile.NODE)


def test_state_round_trips_and_another_versions_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bed" / "bed.json"
    assert load(path) is None
    ports = Ports(api=1, etcd=2, etcd_peer=3)
    state = BedState(profile=Profile.NODE, complete=True, ports=ports, node_ip="192.0.2.1")
    state.save(path)
    assert load(path) == state
    path.write_text('{"layout": 99}')
    with pytest.raises(InvalidStateError, match="testbed down"):
        load(path)


def test_a_port_in_use_is_not_chosen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        ports = choose_ports()
        taken = [socket.create_server(("127.0.0.1", port)) for port in (ports.api, ports.etcd, ports.etcd_peer)]
        try:
            again = choose_ports()
            assert not {again.api, again.etcd, again.etcd_peer} & {ports.api, ports.etcd, ports.etcd_peer}
        finally:
            for sock in taken:
                sock.close()


def test_who_is_not_root_gets_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TESTBED", raising=False)
    monkeypatch.delenv("TESTBED_KUBECONFIG", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["up", "--profile", "node"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "TESTBED=kind" in err


def test_status_without_a_bed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["status"]) == 1
    assert capsys.readouterr().out == "no bed is up\n"


def test_a_cache_too_deep_for_sockets_is_named() -> None:
    check_socket_path(Paths(Path("/home/me/.cache/rlhf-operator")))
    with pytest.raises(BedError, match="XDG_CACHE_HOME to a shorter"):
        check_socket_path(Paths(Path("/" + "x" * 80)))


def _claim(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "data", "namespace": "team", "uid": "1234"},
        "spec": {
            "storageClassName": "standard",
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "200Gi"}},
            **spec,
        },
    }


def test_a_waiting_claim_gets_a_volume_of_its_size_and_modes() -> None:
    volume = volume_for(_claim(), Path("/pool"))
    assert volume is not None
    assert volume["spec"]["hostPath"]["path"] == "/pool/pvc-1234"
    assert volume["spec"]["capacity"] == {"storage": "200Gi"}
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"]
    assert volume["spec"]["claimRef"]["uid"] == "1234"


def test_bound_claims_and_claims_of_other_classes_get_none() -> None:
    assert volume_for(_claim(volumeName="pvc-1234"), Path("/pool")) is None
    assert volume_for(_claim(storageClassName="fast"), Path("/pool")) is None


@pytest.mark.parametrize(
    ("path", "phase", "provisioner", "removed"),
    [
        ("/pool/pvc-1", "Released", PROVISIONER, True),
        ("/pool/pvc-1", "Bound", PROVISIONER, False),
        ("/pool/pvc-1", "Released", "somebody/else", False),
        ("/pool/../etc", "Released", PROVISIONER, False),
        ("/etc", "Released", PROVISIONER, False),
        ("/pool/pvc-2", "Released", PROVISIONER, False),
    ],
)
def test_only_a_released_volumes_own_folder_is_removed(path: str, phase: str, provisioner: str, removed: bool) -> None:
    volume = {
        "metadata": {"name": "pvc-1", "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}},
        "spec": {"hostPath": {"path": path}},
        "status": {"phase": phase},
    }
    assert (folder_to_remove(volume, Path("/pool")) is not None) is removed


def _environment(checkout: str, prefix: str, base_prefix: str) -> PodEnvironment:
    folders = folders_for(Path(checkout), Path(prefix), Path(base_prefix))
    return compose("image", folders, Path(prefix), Path("/cache/shared"))


def test_checkout_environment_and_interpreter_are_mounted_read_only_at_their_own_paths() -> None:
    made = _environment("/src/rlhf", "/src/rlhf/.venv", "/opt/python")
    read_only = {mount["mountPath"] for mount in made.mounts if mount.get("readOnly")}
    assert read_only == {"/src/rlhf", "/opt/python"}
    paths = {volume["name"]: volume.get("hostPath", {}).get("path") for volume in made.volumes}
    by_path = {mount["mountPath"]: paths[mount["name"]] for mount in made.mounts}
    assert by_path[CACHES["PYTHONPYCACHEPREFIX"]] == "/cache/shared/pycache"
    assert by_path[CACHES["TORCH_EXTENSIONS_DIR"]] == "/cache/shared/torch-extensions"
    assert by_path[CACHES["XDG_CACHE_HOME"]] is None
    assert made.env[0] == {"name": "PATH", "value": made.env[0]["value"]}
    assert made.env[0]["value"].startswith("/src/rlhf/.venv/bin:")


def test_the_systems_interpreter_is_not_mounted_for_the_image_has_its_own() -> None:
    made = _environment("/src", "/venv", "/usr")
    assert {mount["mountPath"] for mount in made.mounts if mount.get("readOnly")} == {"/src", "/venv"}


def test_the_template_sets_nothing_that_belongs_to_the_operator() -> None:
    made = _environment("/src", "/venv", "/usr")
    template = made.template("trainer")
    assert set(template) == {"spec"}
    (container,) = template["spec"]["containers"]
    assert set(container) == {"name", "image", "env", "volumeMounts"}
    assert {variable["name"] for variable in container["env"]}.isdisjoint(CACHES)


def _reply(identity: int, code: int, addresses: list[str]) -> bytes:
    question = b"\x03www\x04test\x00" + struct.pack(">HH", 1, 1)
    head = struct.pack(">HHHHHH", identity, 0x8180 | code, 1, len(addresses), 0, 0)
    answers = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address) for address in addresses
    )
    return head + question + answers


def test_dns_replies() -> None:
    size = 12 + 10 + 4
    assert dns.parse_addresses(_reply(7, 0, ["10.96.0.1", "10.96.0.2"]), 7, size) == ["10.96.0.1", "10.96.0.2"]
    assert dns.parse_addresses(_reply(7, 3, []), 7, size) == []
    assert dns.parse_addresses(_reply(8, 0, ["10.96.0.1"]), 7, size) == []
    whole = _reply(7, 0, ["10.96.0.1"])
    for cut in range(len(whole)):
        assert dns.parse_addresses(whole[:cut], 7, size) == []


def test_prometheus_takes_annotated_pods_only() -> None:
    (job,) = monitoring.scrape_config()["scrape_configs"]
    keep = job["relabel_configs"][0]
    assert keep["action"] == "keep"
    assert keep["source_labels"] == ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"]


def test_simulated_jobs_run_for_the_time_asked() -> None:
    delays = {stage["metadata"]["name"]: stage["spec"]["delay"]["durationMilliseconds"] for stage in stages(1.5)}
    assert delays["pod-complete"] == 1500
    assert delays["pod-ready"] == 0
