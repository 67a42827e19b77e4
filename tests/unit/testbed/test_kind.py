"""The kind way as far as it goes without a container engine: its configuration, its commands, its refusals."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from testbed.bed import BedError, ensure
from testbed.kind import CONFIG, Kind, base_dockerfile, cluster_config, engine
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.state import Profile
from testbed.versions import HELM, KIND_NODE_IMAGE, KUBERNETES

_RECORD = """#!/bin/sh
echo "{name} $*" >> {log}
case "$*" in
  *"get clusters"*) echo other ;;
  *"--client"*) echo "Client Version: v{kubernetes}" ;;
  *"version --short"*) echo "v{helm}" ;;
  *"get storageclass"*) echo storageclass.storage.k8s.io/standard ;;
esac
case "$*" in *"-f -"*|*" -") cat > /dev/null ;; esac
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins on PATH that write down how they are called; the file they write to."""
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    for name in ("kind", "docker", "kubectl", "helm"):
        (folder / name).write_text(_RECORD.format(name=name, log=log, kubernetes=KUBERNETES, helm=HELM))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return log


def test_the_configuration_names_the_pinned_kubernetes_and_gets_the_hosts_folders() -> None:
    text = CONFIG.read_text()
    config = cluster_config(text, [Path("/src"), Path("/opt/python")])
    assert [node["image"] for node in config["nodes"]] == [KIND_NODE_IMAGE]
    assert config["nodes"][0]["extraMounts"] == [
        {"hostPath": "/src", "containerPath": "/src"},
        {"hostPath": "/opt/python", "containerPath": "/opt/python"},
    ]
    assert "extraMounts" not in text


def test_what_is_no_kind_configuration_is_refused() -> None:
    with pytest.raises(BedError, match="not a kind cluster configuration"):
        cluster_config("kind: Pod", [])


def test_without_an_engine_the_message_says_what_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BedError, match="docker or podman"):
        engine()
    stopped = tmp_path / "docker"
    stopped.write_text("#!/bin/sh\nexit 1\n")
    stopped.chmod(0o755)
    with pytest.raises(BedError, match="docker or podman"):
        engine()


def test_up_creates_the_cluster_shares_volumes_and_installs_gateway_and_prometheus(
    commands: Path, tmp_path: Path
) -> None:
    kind = Kind(Paths(tmp_path / "cache"), Progress(io.StringIO()))
    assert kind.up() == kind.kubeconfig
    calls = commands.read_text()
    config = yaml.safe_load((kind.kubeconfig.parent / "config.yaml").read_text())
    assert config["name"] == kind.name
    assert str(tmp_path / "cache" / "shared") in [mount["hostPath"] for mount in config["nodes"][0]["extraMounts"]]
    for expected in (
        "kind create cluster",
        "patch configmap local-path-config",
        "helm --kubeconfig",
        "oci://docker.io/envoyproxy/gateway-helm",
        "apply --server-side",
    ):
        assert expected in calls, expected
    assert calls.index("kind create cluster") < calls.index("patch configmap")
    kind.down()
    assert "kind delete cluster --name rlhf-testbed" in commands.read_text()


def test_our_images_are_built_by_the_engine_and_loaded(commands: Path, tmp_path: Path) -> None:
    name = Kind(Paths(tmp_path / "cache"), Progress(io.StringIO())).load_base()
    calls = commands.read_text()
    assert f"docker build -t {name} -" in calls
    assert f"kind load docker-image {name} --name rlhf-testbed" in calls


def test_the_base_is_of_the_hosts_distribution() -> None:
    text = base_dockerfile("ID=ubuntu\nVERSION_CODENAME=noble\n", Path("/usr"))
    assert text.startswith("FROM docker.io/library/ubuntu:noble\n")
    assert "python3-dev" in text


def test_an_unknown_kind_of_bed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TESTBED_KUBECONFIG", raising=False)
    monkeypatch.setenv("TESTBED", "minikube")
    with pytest.raises(BedError, match="TESTBED=minikube is unknown"):
        ensure(Profile.NODE)
