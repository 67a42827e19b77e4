"""Weights that change behind the real gateway, under many requests a second: none may meet a half-read route."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from e2e.harness import Space
from e2e.harness_load import failures, shares, start_users
from e2e.harness_pods import start_script
from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.names import Owner
from rlhf_operator.common.resources import POLICYROLLOUTS
from rlhf_operator.policyrollout.route import http_route, route_view
from rlhf_operator.policyrollout.views import BAKE, Traffic

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ONE, TWO = "aaaaaaaaaa", "bbbbbbbbbb"
RATE = 40
CYCLES = 3
_SERVER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("x-rlhf-revision", os.environ["REVISION"])
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("", 8000), Answer).serve_forever()
"""


def serve(space: Space, revision: str) -> None:
    """One pod of a revision and its Service, with the ports of the real ones."""
    name = f"assistant-{revision}"
    start_script(space, name, _SERVER, {"REVISION": revision})
    space.cluster.run("label", "pod", name, f"of={revision}")
    ports = [
        {"name": "http", "port": 80, "targetPort": 8000},
        {"name": "shadow", "port": signals.SHADOW_PORT, "targetPort": 8000},
    ]
    spec = {"selector": {"of": revision}, "ports": ports}
    space.cluster.apply([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}])


def steps(stable: str, candidate: str) -> list[Traffic]:
    """A rollout that is promoted."""
    at = Traffic(stable, candidate, "shadow", 0, mirror=100)
    return [
        at,
        replace(at, step="ten", weight=10, mirror=0),
        replace(at, step="staff", weight=10, mirror=0, headers=(("x-group", "staff", "Exact"),)),
        replace(at, step="half", weight=50),
        replace(at, step=BAKE, weight=100, mirror=0),
        Traffic(candidate),
    ]


def test_no_request_fails_while_weights_change(space: Space) -> None:
    owner = Owner(POLICYROLLOUTS.kind, space.cluster.namespace, "assistant", "0")
    host = f"{space.cluster.namespace}.example.com"
    match = {"name": "staff", "match": {"headers": [{"name": "x-group", "value": "staff"}]}}
    route = {"parentRefs": [{"name": "public", "namespace": "gateway"}], "hostnames": [host]}
    digest = "sha256:" + "0" * 64
    model = {"artifact": {"pvc": {"claimName": "models", "path": "one"}, "digest": digest}}
    spec = PolicyRolloutSpec.model_validate({"model": model, "route": route, "strategy": {"steps": [match]}})

    def write(traffic: Traffic) -> None:
        manifest = http_route(owner, spec, traffic)
        # It stands alone here: what has no owner is not collected.
        del manifest["metadata"]["ownerReferences"]
        space.cluster.apply([manifest])

        def accepted() -> bool:
            found = space.cluster.get("httproute", "assistant")
            return found is not None and route_view(found, owner).accepted is True

        space.cluster.wait("the route is accepted", accepted, 60, lambda: str(traffic), interval_seconds=0.1)

    for revision in (ONE, TWO):
        serve(space, revision)
    write(Traffic(ONE))
    plain = start_users(space, "plain", host, "assistant", ["hello"], rate=RATE)
    staff = start_users(space, "staff", host, "assistant", ["hello"], rate=RATE, headers={"x-group": "staff"})
    aborted = [Traffic(ONE, TWO, "half", 3, weight=50), Traffic(ONE)]
    for stable, candidate in pairwise([ONE, TWO] * CYCLES + [ONE]):
        for traffic in steps(stable, candidate):
            write(traffic)
            plain.more(RATE)
    for traffic in aborted:
        write(traffic)
        plain.more(RATE)
    for users in (plain, staff):
        seen = users.end()
        assert Counter((each.code, each.why) for each in failures(seen)) == {}
        assert set(shares(seen)) == {ONE, TWO}
