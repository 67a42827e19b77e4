"""The node profile: real pods, DNS, Services, claims, logs, exec, the gateway's data plane, Prometheus' discovery."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import testbed
from testbed import gateway, podenv
from testbed.bed import Bed
from testbed.errors import BedError
from testbed.podenv import PodEnvironment
from testbed.progress import wait_until
from testbed.state import Profile

pytestmark = pytest.mark.e2e

NAMESPACE = "testbed-node-test"
SERVE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"things_total 3\\n" if self.path == "/metrics" else self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def bed() -> Bed:
    return testbed.ensure(Profile.NODE)


@pytest.fixture(scope="module")
def environment(bed: Bed) -> PodEnvironment:
    return podenv.pod_environment(bed.paths)


@pytest.fixture(scope="module", autouse=True)
def namespace(bed: Bed) -> Iterator[str]:
    bed.kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    yield NAMESPACE
    bed.kubectl.run("delete", "namespace", NAMESPACE, "--wait=true", timeout_seconds=180)


def _phase(bed: Bed, name: str) -> str:
    return bed.kubectl.run("-n", NAMESPACE, "get", "pod", name, "-o", "jsonpath={.status.phase}")


def _logs(bed: Bed, name: str) -> str:
    return bed.kubectl.run("-n", NAMESPACE, "logs", name)


def _finish(bed: Bed, name: str, wanted: str = "Succeeded") -> str:
    """The logs of a pod that has ended as wanted."""
    wait_until(f"the end of {name}", lambda: _phase(bed, name) in ("Succeeded", "Failed"), 180)
    logs = _logs(bed, name)
    assert _phase(bed, name) == wanted, logs
    return logs


@pytest.fixture(scope="module")
def server(bed: Bed, environment: PodEnvironment) -> str:
    """A pod `server` behind a Service of that name, scraped by Prometheus."""
    pod = environment.pod("server", ["python", "-c", SERVE], NAMESPACE)
    pod["metadata"]["labels"] = {"app": "server"}
    annotations = {"scrape": "true", "port": "8000"}
    pod["metadata"]["annotations"] = {f"prometheus.io/{name}": value for name, value in annotations.items()}
    pod["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8000}, "periodSeconds": 1}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    bed.kubectl.apply([pod, service])
    bed.kubectl.run("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/server", "--timeout=120s")
    return "server"


def _run(bed: Bed, environment: PodEnvironment, name: str, code: str) -> dict[str, Any]:
    return environment.pod(name, ["python", "-c", code], NAMESPACE)


def test_a_pod_runs_this_checkouts_python_without_root(bed: Bed, environment: PodEnvironment) -> None:
    code = "import os, sys, rlhf_operator.api.plan, torch; print(os.getuid(), sys.prefix, torch.ones(2).sum().item())"
    bed.kubectl.apply([_run(bed, environment, "python", code)])
    words = _finish(bed, "python").split()
    assert words[0] == "65532"
    assert words[2] == "2.0"


def test_the_checkout_is_read_only_in_pods(bed: Bed, environment: PodEnvironment) -> None:
    code = "import rlhf_operator, pathlib; pathlib.Path(rlhf_operator.__file__).with_name('x').write_text('x')"
    bed.kubectl.apply([_run(bed, environment, "writer", code)])
    assert "Read-only file system" in _finish(bed, "writer", wanted="Failed")


def test_services_are_found_by_name_and_exec_works(bed: Bed, environment: PodEnvironment, server: str) -> None:
    code = "import urllib.request as r; print(r.urlopen('http://server/by-name', timeout=10).read().decode())"
    bed.kubectl.apply([_run(bed, environment, "client", code)])
    assert _finish(bed, "client").strip() == "/by-name"
    said = bed.kubectl.run("-n", NAMESPACE, "exec", server, "--", "sh", "-c", "echo from exec; id -u")
    assert said.split("\n")[:2] == ["from exec", "65532"]


def _claim(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "500Gi"}}},
    }


def _with_claim(pod: dict[str, Any], claim: str) -> dict[str, Any]:
    spec = pod["spec"]
    spec["volumes"] = [*spec["volumes"], {"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    container = spec["containers"][0]
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "data", "mountPath": "/data"}]
    return pod


def test_two_pods_share_a_claim_of_any_name_and_size_and_its_folder_goes_with_it(
    bed: Bed, environment: PodEnvironment
) -> None:
    write = _run(bed, environment, "first", "open('/data/x', 'w').write('kept')")
    read = _run(bed, environment, "second", "print(open('/data/x').read())")
    bed.kubectl.apply([_claim("any-name"), _with_claim(write, "any-name")])
    _finish(bed, "first")
    volume = bed.kubectl.run("-n", NAMESPACE, "get", "pvc", "any-name", "-o", "jsonpath={.spec.volumeName}")
    assert (bed.paths.volumes / volume / "x").read_text() == "kept"
    bed.kubectl.apply([_with_claim(read, "any-name")])
    assert _finish(bed, "second").strip() == "kept"
    bed.kubectl.run("-n", NAMESPACE, "delete", "pod", "first", "second")
    bed.kubectl.run("-n", NAMESPACE, "delete", "pvc", "any-name")
    wait_until("the folder's end", lambda: not (bed.paths.volumes / volume).exists(), 30)
    wait_until("the volume's end", lambda: volume not in bed.kubectl.run("get", "pv", "-o", "name"), 30)


def test_a_pod_over_its_memory_limit_is_killed_and_named(bed: Bed, environment: PodEnvironment) -> None:
    pod = _run(bed, environment, "hungry", "x = bytearray(400 << 20)")
    pod["spec"]["containers"][0]["resources"] = {"limits": {"memory": "100Mi"}}
    bed.kubectl.apply([pod])
    _finish(bed, "hungry", wanted="Failed")
    path = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
    assert bed.kubectl.run("-n", NAMESPACE, "get", "pod", "hungry", "-o", path) == "OOMKilled"


def _from_pod(bed: Bed, server: str) -> Callable[[str], str]:
    def fetch(url: str) -> str:
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"
        try:
            return bed.kubectl.run("-n", NAMESPACE, "exec", server, "--", "python", "-c", code, url)
        except BedError as error:
            return str(error)

    return fetch


def test_prometheus_finds_annotated_pods(bed: Bed, server: str) -> None:
    fetch = _from_pod(bed, server)
    query = urllib.parse.quote(f'things_total{{namespace="{NAMESPACE}",pod="server",app="server"}}')
    url = f"http://prometheus.monitoring:9090/api/v1/query?query={query}"
    wait_until("a sample", lambda: '"3"' in fetch(url), 90, interval_seconds=1)


def test_a_route_through_the_gateway_reaches_the_service(bed: Bed, server: str) -> None:
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "route", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"name": gateway.NAME, "namespace": gateway.NAMESPACE}],
            "hostnames": ["node-test.example"],
            "rules": [{"backendRefs": [{"name": "server", "port": 80}]}],
        },
    }
    bed.kubectl.apply([route])
    selector = f"gateway.envoyproxy.io/owning-gateway-name={gateway.NAME}"
    listed = bed.kubectl.run("-n", gateway.SYSTEM_NAMESPACE, "get", "service", "-l", selector, "-o", "json")
    address = json.loads(listed)["items"][0]["spec"]["clusterIP"]
    code = (
        "import sys, urllib.request as r; q = r.Request(sys.argv[1], headers={'Host': 'node-test.example'}); "
        "print(r.urlopen(q, timeout=10).read().decode())"
    )

    def reached() -> bool:
        try:
            said = bed.kubectl.run(
                "-n", NAMESPACE, "exec", server, "--", "python", "-c", code, f"http://{address}/through-envoy"
            )
        except BedError:
            return False
        return said.strip() == "/through-envoy"

    wait_until("an answer through Envoy", reached, 60, interval_seconds=1)
