"""A RewardModel's pods follow the queue that they tell of: KEDA, Prometheus and the autoscaler are the real ones."""

from __future__ import annotations

from collections import Counter

import pytest

import testbed
from demo.cluster import Object
from e2e import rewarddata
from e2e.harness_clients import start_clients
from e2e.harness_rewardmodels import RewardModels
from testbed import monitoring
from testbed.bed import Addon, Origin

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

CLIENTS = 12
TARGET = 4
UP_SECONDS = 300
"""The autoscaler looks each 15 s, and Prometheus each 5; a pod of graders starts in some ten."""
DOWN_SECONDS = 600
"""Kubernetes waits 5 minutes before it takes a pod away."""

# As long as an engine takes over a text: with so many clients some always wait.
_SLOW = """
import time
def grade(prompt, response, row):
    time.sleep(0.02)
    return float(any(word in response for word in {good!r}))
"""


@pytest.fixture(autouse=True)
def keda(models: RewardModels) -> None:
    """KEDA on our own bed; another's cluster has it or not."""
    bed = testbed.ensure(testbed.Profile.NODE, addons=[Addon.KEDA])
    if bed.origin is not Origin.OWN and not models.space.cluster.run("api-resources", "--api-group=keda.sh", "-o=name"):
        pytest.skip("this cluster has no KEDA")


def test_pods_are_added_while_texts_wait_and_taken_away_afterwards(models: RewardModels) -> None:
    space = models.space
    space.install(prometheusURL=f"http://prometheus.{monitoring.NAMESPACE}:9090")
    source = _SLOW.format(good=rewarddata.GOOD)
    space.cluster.apply(
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "slow"}, "data": {"slow.py": source}}]
    )
    slow = {"name": "slow", "grader": {"python": {"configMap": {"name": "slow", "key": "slow.py"}}}}
    resources = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
    serving = {
        "template": models.template_of("judge"),
        "resources": resources,
        "autoscaling": {"min": 1, "max": 2, "target": TARGET},
    }
    models.apply("busy", models.spec(source={"train": None, "graders": [slow]}, evaluation=None, serving=serving))
    status = models.ready("busy")["status"]
    digest = status["servedVersion"]
    scaled = space.cluster.objects("scaledobjects.keda.sh")
    assert [each["spec"]["scaleTargetRef"]["name"] for each in scaled] == [replicas_of(models)["metadata"]["name"]]
    assert replicas_of(models)["spec"]["replicas"] == 1

    clients = start_clients(space, "load", status["url"], rewarddata.texts(40), CLIENTS, pause_seconds=0.0)
    space.cluster.wait(
        "a second pod that answers",
        lambda: replicas_of(models)["status"].get("availableReplicas") == 2,
        UP_SECONDS,
        lambda: tell(models),
    )
    models.ready("busy")
    answers = clients.end()
    assert Counter(answer.code for answer in answers).keys() == {200}
    assert {answer.version for answer in answers} == {digest}
    space.cluster.wait(
        "one pod again",
        lambda: replicas_of(models)["spec"]["replicas"] == 1 and len(models.pods("busy")) == 1,
        DOWN_SECONDS,
        lambda: tell(models),
        interval_seconds=2,
    )
    assert models.ready("busy")["status"]["servedVersion"] == digest
    code, _ = models.score(status["url"], [("p", "thanks")])
    assert code == 200


def replicas_of(models: RewardModels) -> Object:
    """The Deployment of the only version."""
    (found,) = models.space.cluster.objects("deployments", "rlhf.dev/reward-model=busy")
    return found


def tell(models: RewardModels) -> str:
    """What the autoscaler sees, beside everything else."""
    cluster = models.space.cluster
    seen = [cluster.run(*arguments).decode() for arguments in (("describe", "hpa"), ("describe", "scaledobjects"))]
    return "\n---\n".join([*seen, models.tell("busy")])
