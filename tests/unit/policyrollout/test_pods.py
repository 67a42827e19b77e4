"""What keeps pods from being ready: the model's doing, the cluster's, or time."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_operator.policyrollout.pods import pods_view
from rlhf_operator.policyrollout.views import Trouble

REVISION = "0123456789"
LABELS = {"rlhf.dev/revision": REVISION}


def deployment(replicas: int = 2, ready: int = 0, **status: Any) -> Any:
    return {
        "metadata": {"uid": "uid", "generation": 3, "labels": LABELS, "creationTimestamp": "2026-01-31T12:00:00Z"},
        "spec": {"replicas": replicas},
        "status": {
            "observedGeneration": 3,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": ready,
            **status,
        },
    }


def pod(server: dict[str, Any] | None = None, verify: dict[str, Any] | None = None, **status: Any) -> Any:
    return {
        "metadata": {"name": "pod", "labels": LABELS},
        "status": {
            "containerStatuses": [{"name": "server", "restartCount": 0} | (server or {})],
            "initContainerStatuses": [{"name": "verify"} | (verify or {})],
            **status,
        },
    }


ENDED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}


@pytest.mark.parametrize(
    ("seen", "trouble", "words"),
    [
        (pod(), Trouble.STARTING, ""),
        (pod(conditions=[UNSCHEDULABLE]), Trouble.INFRASTRUCTURE, "0/3 nodes"),
        (pod({"state": {"waiting": {"reason": "ImagePullBackOff"}}}), Trouble.INFRASTRUCTURE, "ImagePullBackOff"),
        (pod({"restartCount": 3, "lastState": ENDED}), Trouble.CRASHING, "OOMKilled"),
        (pod({"restartCount": 1, "lastState": ENDED}), Trouble.STARTING, ""),
        (
            pod({"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ENDED}),
            Trouble.CRASHING,
            "ended 1 times",
        ),
        (
            pod(verify={"state": {"terminated": {"exitCode": 65, "message": "x is changed"}}}),
            Trouble.DIGEST_MISMATCH,
            "x",
        ),
        (
            pod(
                verify={
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 65, "message": "x is changed"}},
                }
            ),
            Trouble.DIGEST_MISMATCH,
            "x is changed",
        ),
        (
            pod(verify={"state": {"terminated": {"exitCode": 64, "message": "x is a LoRA adapter"}}}),
            Trouble.NOT_SERVABLE,
            "LoRA adapter",
        ),
        (
            pod(verify={"state": {"terminated": {"exitCode": 66, "message": "no files"}}}),
            Trouble.INFRASTRUCTURE,
            "no files",
        ),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), Trouble.INFRASTRUCTURE, "Evicted"),
    ],
)
def test_trouble(seen: Any, trouble: Trouble, words: str) -> None:
    view = pods_view(deployment(), [seen], scaled=False)
    assert view.trouble is trouble
    assert words in view.words


def test_what_no_pod_can_say_the_deployment_says() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}
    view = pods_view(deployment(conditions=[refused]), [], scaled=False)
    assert (view.trouble, view.words) == (Trouble.INFRASTRUCTURE, "exceeded quota: gpus")


def test_pods_that_are_ready_have_no_trouble() -> None:
    view = pods_view(deployment(ready=2), [pod(), pod()], scaled=True)
    assert (view.trouble, view.ready, view.settled, view.scaled_by_others) == (Trouble.NONE, 2, True, True)


def test_a_deployment_whose_controller_has_not_looked_is_not_settled() -> None:
    view = pods_view(deployment(ready=2, observedGeneration=2), [], scaled=False)
    assert (view.settled, view.trouble) == (False, Trouble.STARTING)


def test_pods_of_other_revisions_and_those_that_go_are_not_looked_at() -> None:
    other = pod({"restartCount": 9, "lastState": ENDED})
    other["metadata"]["labels"] = {"rlhf.dev/revision": "another"}
    going = pod({"restartCount": 9, "lastState": ENDED})
    going["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    view = pods_view(deployment(ready=2), [other, going], scaled=False)
    assert (view.trouble, view.restarts) == (Trouble.NONE, 0)
