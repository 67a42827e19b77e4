"""Plays the scheduler and the kubelet on a control plane without nodes: pods are bound, run, exit, and are reaped."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self

from opkit.api import Api, ApiError, Object
from opkit.process import wait_for
from rlhf_operator.common.resources import NODES, PODS, Resource

INTERRUPTED = 75
KILLED = 137
INDEX = "batch.kubernetes.io/job-completion-index"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Player:
    """Plays a part of the cluster in one namespace: looks at every object of a kind, again and again."""

    resource: Resource

    def __init__(self, api: Api, namespace: str) -> None:
        self._kubeconfig = api.kubeconfig
        self._namespace = namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _loop(self) -> None:
        with closing(Api(self._kubeconfig)) as api:
            while not self._stop.wait(0.05):
                # Somebody else was faster, or a busy server does not answer: the next round sees it as it is now.
                with suppress(ApiError, OSError, http.client.HTTPException):
                    for obj in api.list(self.resource, self._namespace):
                        self._tend(api, obj)

    def _tend(self, api: Api, obj: Object) -> None:
        raise NotImplementedError


class Kubelet(Player):
    """Runs every pod of one namespace on one node, until a test says how it ends.

    Deleted pods exit 75, by force 137, and go.
    """

    resource = PODS

    def __init__(self, api: Api, namespace: str, node: str, pod_ip: str = "127.0.0.1") -> None:
        super().__init__(api, namespace)
        self._node = node
        self._ip = pod_ip
        self.hold = False
        """New pods stay unscheduled, with these words."""
        self.hold_words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        self.frozen = False
        """Nothing is reaped: the node does not answer."""

    def _tend(self, api: Api, pod: Object) -> None:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        phase = status.get("phase", "Pending")
        if pod["metadata"].get("deletionTimestamp"):
            if self.frozen:
                return
            if phase == "Running":
                # By force there is no time to be asked first.
                by_force = pod["metadata"].get("deletionGracePeriodSeconds") == 0
                self.end(api, pod, KILLED if by_force else INTERRUPTED, "")
            path = PODS.path(self._namespace, name)
            api.call("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}})
        elif not pod["spec"].get("nodeName"):
            if self.hold:
                if not status.get("conditions"):
                    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
                    condition["message"] = self.hold_words
                    api.patch(PODS, self._namespace, name, {"status": {"conditions": [condition]}}, "status")
                return
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name},
                "target": {"kind": "Node", "name": self._node},
            }
            api.call("POST", PODS.path(self._namespace, name, "binding"), binding)
        elif phase == "Pending":
            self.start(api, pod)
        elif phase == "Running":
            self._say_ready_again(api, pod)

    def _say_ready_again(self, api: Api, pod: Object) -> None:
        """Take back what the node controller has said, as a kubelet does.

        It hears nothing of this node, and calls a pod that it learns of late, when it is ready already, not ready.
        """
        conditions = pod["status"].get("conditions") or []
        if any(each["type"] == "Ready" and each["status"] == "False" for each in conditions):
            others = [each for each in conditions if each["type"] != "Ready"]
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": _now()}
            body = {"status": {"conditions": [*others, ready]}}
            api.patch(PODS, self._namespace, pod["metadata"]["name"], body, "status")

    def start(self, api: Api, pod: Object) -> None:
        """The pod runs."""
        containers = [
            {**_container(each), "state": {"running": {"startedAt": _now()}}, "ready": True, "started": True}
            for each in pod["spec"]["containers"]
        ]
        self._status(api, pod, {"phase": "Running", "podIP": self._ip, "containerStatuses": containers})

    def end(self, api: Api, pod: Object, code: int, message: str, reason: str | None = None, **status: Any) -> None:
        """Every container of the pod has ended; the container `trainer` with this code and message."""
        containers = []
        for each in pod["spec"]["containers"]:
            mine = each["name"] == "trainer"
            ended = {"exitCode": code if mine else 0, "startedAt": _now(), "finishedAt": _now()}
            ended["reason"] = reason or ("Error" if code else "Completed")
            if mine:
                ended["message"] = message
            containers.append({**_container(each), "state": {"terminated": ended}})
        phase = "Failed" if code else "Succeeded"
        self._status(api, pod, {"phase": phase, "containerStatuses": containers, **status})

    def _status(self, api: Api, pod: Object, status: Mapping[str, Any]) -> None:
        name = pod["metadata"]["name"]
        word = "True" if status["phase"] == "Running" else "False"
        conditions = {"type": "Ready", "status": word, "lastTransitionTime": _now()}
        # A merge patch replaces the list: what others wrote, such as DisruptionTarget, must stay.
        known = [*((pod.get("status") or {}).get("conditions") or ()), *status.get("conditions", ())]
        others = [each for each in known if each["type"] != "Ready"]
        body = {**status, "conditions": [*others, conditions], "startTime": _now()}
        api.patch(PODS, self._namespace, name, {"status": body}, "status")


def _container(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": spec["name"], "image": spec["image"], "imageID": "", "restartCount": 0, "ready": False}


def make_node(api: Api, name: str) -> None:
    """A node object, so that pods bound to it are not collected as orphans."""
    if api.get(NODES, None, name) is None:
        api.create(NODES, {"metadata": {"name": name}})


def pods_of(api: Api, namespace: str, job: str) -> list[Object]:
    """The pods of a batch Job that are not being deleted, by index."""
    pods = api.list(PODS, namespace, f"batch.kubernetes.io/job-name={job}")
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return sorted(alive, key=lambda pod: (pod["metadata"].get("annotations") or {}).get(INDEX, ""))


def running_pods(api: Api, namespace: str, job: str, count: int, seconds: float = 120) -> list[Object]:
    """The pods of a Job once so many of them run."""

    def look() -> list[Object] | None:
        pods = [pod for pod in pods_of(api, namespace, job) if (pod.get("status") or {}).get("phase") == "Running"]
        return pods if len(pods) == count else None

    return wait_for(f"{count} running pods of {job}", look, seconds)


@contextmanager
def progress_server(address: str, port: int, answer: Mapping[str, Any]) -> Iterator[None]:
    """GET /progress of a trainer pod."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path == "/progress" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tests have no use for an access log."""

    server = http.server.ThreadingHTTPServer((address, port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
