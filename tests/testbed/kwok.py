"""Simulated pods on a control plane: kwok plays a node, the scheduler binds to it. For tests that need many pods."""

from __future__ import annotations

from typing import Any

import yaml

from testbed import node
from testbed.bed import Bed
from testbed.binaries import require
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import load
from testbed.versions import SIMULATION

KWOK_NODE = "kwok-0"
_READY_TIMEOUT_SECONDS = 60
_FLAVOUR = {"type": "kwok"}
TERMINATION_MESSAGE = "testbed.rlhf.dev/termination-message"
"""Annotation of a pod: what its containers are to have written when they succeed."""

_RUNNING = """\
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- {type: {{ $type }}, status: "True", lastTransitionTime: {{ Now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
phase: Running
podIP: 127.0.0.1
podIPs: [{ip: 127.0.0.1}]
startTime: {{ Now | Quote }}
"""
_NODE_READY = """\
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
{{ end }}
addresses:
- {type: Hostname, address: kwok-0}
allocatable: {cpu: "10000", memory: 10Ti, pods: "10000"}
capacity: {cpu: "10000", memory: 10Ti, pods: "10000"}
phase: Running
"""
_SUCCEEDED = """\
{{ $message := index (or .metadata.annotations dict) "MESSAGE" }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      message: {{ or $message "" | Quote }}
      startedAt: {{ Now | Quote }}
      finishedAt: {{ Now | Quote }}
{{ end }}
""".replace("MESSAGE", TERMINATION_MESSAGE)


def fake_node() -> dict[str, Any]:
    """The simulated node; kwok fills in its status, with room for thousands of pods."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": KWOK_NODE,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {**_FLAVOUR, "kubernetes.io/hostname": KWOK_NODE},
        },
    }


def stages(run_seconds: float) -> list[dict[str, Any]]:
    """Kwok's rules: the node is Ready, a bound pod too; a Job's succeeds after `run_seconds`; a deleted one goes."""
    pending = _key(".status.phase", "In", "Pending")
    of_job = [_key(".status.phase", "In", "Running"), _key(".metadata.ownerReferences.[].kind", "In", "Job")]
    unready = _key('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", "True")
    gone = _key(".metadata.deletionTimestamp", "Exists")
    return [
        _stage("node-ready", [unready], 0, {"statusTemplate": _NODE_READY}, kind="Node"),
        _stage("pod-ready", [pending, _alive()], 0, {"statusTemplate": _RUNNING}),
        _stage("pod-complete", [*of_job, _alive()], run_seconds, {"statusTemplate": _SUCCEEDED}),
        _stage("pod-delete", [gone], 0, {"delete": True}),
    ]


def _alive() -> dict[str, Any]:
    return _key(".metadata.deletionTimestamp", "DoesNotExist")


def _key(path: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": path, "operator": operator, **({"values": list(values)} if values else {})}


def _stage(
    name: str, match: list[dict[str, Any]], delay_seconds: float, then: dict[str, Any], kind: str = "Pod"
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": match},
            "delay": {"durationMilliseconds": round(delay_seconds * 1000)},
            "next": then,
        },
    }


def start(bed: Bed, progress: Progress | None = None, run_seconds: float = 2.0) -> None:
    """Start the simulation on the bed: scheduler, kwok and one node. Does nothing when it runs.

    Pods reach the simulated node through `nodeSelector: {type: kwok}`, or because it is the only node.
    """
    progress = progress or Progress()
    daemons = Daemons(bed.paths.daemons, bed.paths.logs)
    if daemons.running("kwok"):
        return
    state = load(bed.paths.state)
    if state is None:
        raise RuntimeError("the bed is not up")
    binaries = require(SIMULATION, bed.paths, progress)
    node.start_scheduler(bed.paths, daemons, binaries["kube-scheduler"])
    config = bed.paths.bed / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(stages(run_seconds)))
    arguments = [f"--kubeconfig={bed.kubeconfig}", f"--config={config}", "--manage-all-nodes=false"]
    arguments += ["--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]
    daemons.start("kwok", [str(binaries["kwok"]), *arguments, "--node-lease-duration-seconds=40"])
    bed.kubectl.apply([fake_node()])

    def ready() -> bool:
        daemons.check("kwok")
        return "True" in bed.kubectl.run(
            "get", "node", KWOK_NODE, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        )

    wait_until("the simulated node's readiness", ready, _READY_TIMEOUT_SECONDS, hint=str(daemons.log("kwok")))
    progress.say(f"pods can be simulated on node {KWOK_NODE}")


def stop(bed: Bed) -> None:
    """Stop the simulation; the scheduler goes on when a real node needs it."""
    daemons = Daemons(bed.paths.daemons, bed.paths.logs)
    bed.kubectl.run("delete", "node", KWOK_NODE, "--ignore-not-found")
    daemons.stop("kwok")
    if not daemons.running("kubelet"):
        daemons.stop("kube-scheduler")
