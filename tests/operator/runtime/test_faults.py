"""What is missing, forbidden or silent: it is said which, the rest goes on, and it heals by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opkit.api import Api, kubeconfig_for, server_of
from opkit.process import OperatorProcess, wait_for
from opkit.proxy import StallingProxy
from opkit.widgets import GADGETS, GROUP, LATECOMERS, WIDGETS, crd, widget
from rlhf_operator.common.resources import CRDS, SERVICEACCOUNTS, Resource

StartOperator = Callable[..., OperatorProcess]
ROLES = Resource("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLEBINDINGS = Resource("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
# The server ends a watch after so long: silence is then noticed within a few of these.
QUICK = {"WATCH_TIMEOUT_SECONDS": "2", "WATCH_SILENCE_SECONDS": "4", "WATCH_UNHEALTHY_SECONDS": "6"}


def done(obj: dict[str, object]) -> bool:
    return isinstance(status := obj.get("status"), dict) and status.get("phase") == "Ready"


def rules(*kinds: str) -> list[dict[str, object]]:
    everything = ["get", "list", "watch", "create", "update", "patch", "delete"]
    return [
        {"apiGroups": [""], "resources": ["configmaps", "services"], "verbs": everything},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": everything},
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list", "watch"]},
        {"apiGroups": [GROUP], "resources": [*kinds, *(f"{kind}/status" for kind in kinds)], "verbs": everything},
    ]


@pytest.fixture
def account(admin: Api, namespace: str, tmp_path: Path) -> Path:
    """A kubeconfig of a service account that may serve Widgets, and Widgets only."""
    meta = {"name": "limited", "namespace": namespace}
    admin.create(SERVICEACCOUNTS, {"metadata": meta})
    admin.create(ROLES, {"metadata": meta, "rules": rules("widgets")})
    subject = {"kind": "ServiceAccount", "name": "limited", "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "limited"}
    admin.create(ROLEBINDINGS, {"metadata": meta, "roleRef": reference, "subjects": [subject]})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = SERVICEACCOUNTS.path(namespace, "limited", "token")
    token = tmp_path / "token"
    token.write_text(admin.call("POST", path, request)["status"]["token"], encoding="utf-8")
    return kubeconfig_for(admin.kubeconfig, tmp_path / "limited", token_file=token)


def test_a_kind_without_permission_is_named_while_the_other_is_served(
    admin: Api, namespace: str, start: StartOperator, account: Path
) -> None:
    operator = start(kinds="Widget,Gadget", kubeconfig=account)
    admin.create(WIDGETS, widget(namespace))
    admin.create(GADGETS, widget(namespace, "g"))
    admin.eventually(WIDGETS, namespace, "w", done)
    code, text = operator.get("/readyz")
    assert (code, "no permission to list and watch gadgets.runtime.test.rlhf.dev" in text) == (500, True), text
    assert operator.get("/healthz")[0] == 200, "a restart would not bring the permission"
    state = {"resource": "gadgets.runtime.test.rlhf.dev", "state": "Forbidden"}
    assert operator.metric("rlhf_operator_watch_state", **state) == 1
    warned = [json.loads(line) for line in operator.log().splitlines() if "no permission" in line]
    assert len(warned) == 1, "said once, not at every try"

    admin.patch(ROLES, namespace, "limited", {"rules": rules("widgets", "gadgets")})
    admin.eventually(GADGETS, namespace, "g", done)
    operator.wait_ready()


def test_permission_lost_later_is_said_and_the_rest_goes_on(
    admin: Api, namespace: str, start: StartOperator, account: Path
) -> None:
    admin.patch(ROLES, namespace, "limited", {"rules": rules("widgets", "gadgets")})
    operator = start(kinds="Widget,Gadget", kubeconfig=account, **QUICK)
    operator.wait_ready()
    admin.patch(ROLES, namespace, "limited", {"rules": rules("widgets")})
    wait_for("the loss to be said", lambda: "gadgets" in operator.get("/readyz")[1])
    admin.create(WIDGETS, widget(namespace))
    admin.eventually(WIDGETS, namespace, "w", done)


def test_a_crd_that_comes_later_is_picked_up(admin: Api, namespace: str, start: StartOperator) -> None:
    admin.delete(CRDS, None, LATECOMERS.qualified)
    wait_for("the CRD to be gone", lambda: admin.get(CRDS, None, LATECOMERS.qualified) is None)
    operator = start(kinds="Widget,Latecomer")
    admin.create(WIDGETS, widget(namespace))
    admin.eventually(WIDGETS, namespace, "w", done)
    code, text = operator.get("/readyz")
    assert (code, "latecomers is absent" in text) == (500, True), text
    assert operator.get("/healthz")[0] == 200
    try:
        admin.install_crd(crd(LATECOMERS))
        admin.create(LATECOMERS, widget(namespace, "late"))
        admin.eventually(LATECOMERS, namespace, "late", done)
        operator.wait_ready()
    finally:
        admin.delete(CRDS, None, LATECOMERS.qualified)


@pytest.fixture
def proxy(admin: Api) -> Iterator[StallingProxy]:
    host, _, port = server_of(admin.kubeconfig).rpartition(":")
    with StallingProxy(host, int(port)) as proxy:
        yield proxy


def test_a_hung_watch_turns_readiness_and_liveness_red_and_heals(
    admin: Api, namespace: str, start: StartOperator, tmp_path: Path, proxy: StallingProxy
) -> None:
    config = kubeconfig_for(admin.kubeconfig, tmp_path / "proxied", server=f"https://127.0.0.1:{proxy.port}")
    operator = start(kubeconfig=config, LEADER_ELECTION="false", **QUICK)
    operator.wait_ready()
    assert operator.get("/healthz")[0] == 200
    proxy.stall()
    wait_for("readiness to turn red", lambda: operator.get("/readyz")[0] == 500)
    wait_for("liveness to turn red", lambda: operator.get("/healthz")[0] == 500)
    assert "silent" in operator.get("/healthz")[1]
    age = max(s.value for s in operator.samples() if s.name == "rlhf_operator_watch_age_seconds")
    assert age > float(QUICK["WATCH_UNHEALTHY_SECONDS"])
    admin.create(WIDGETS, widget(namespace))
    proxy.resume()
    admin.eventually(WIDGETS, namespace, "w", done)
    operator.wait_ready()
    assert operator.get("/healthz")[0] == 200


def test_a_server_that_refuses_is_waited_for_without_asking_for_a_restart(
    admin: Api, namespace: str, start: StartOperator, tmp_path: Path
) -> None:
    config = kubeconfig_for(admin.kubeconfig, tmp_path / "nobody", server="https://127.0.0.1:1")
    operator = start(kubeconfig=config)
    wait_for("a probe", lambda: operator.get("/healthz")[0] == 200)
    assert "waiting for the API server" in operator.get("/readyz")[1]
    assert operator.terminate() == 0


def test_a_bad_setting_ends_with_its_name_and_its_own_code(start: StartOperator) -> None:
    operator = start(WORKERS="many")
    assert operator.process.wait(60) == 64
    assert "RLHF_OPERATOR_WORKERS" in operator.log()
    late = start("late", LEASE_RENEW_DEADLINE_SECONDS="5.5")
    assert late.process.wait(60) == 64
    assert "must hold" in late.log()
