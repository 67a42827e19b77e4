"""Act three: the first policy goes live, and users begin to ask."""

from __future__ import annotations

from demo import manifests, users
from demo.acts.stage import Stage
from demo.cluster import Object, is_true
from demo.table import variant

RATE = 2.0
"""Requests per second."""
POD = "users"


def open_route(stage: Stage) -> None:
    """Apply the PolicyRollout; its first revision takes all traffic once it is ready."""
    stage.apply(stage.scene.rollout)
    stage.watch("the first policy at 100 %", "first", alone)


def send_users(stage: Stage) -> None:
    """Let users ask through the gateway, from now to the end."""
    cluster = stage.cluster
    parent = stage.scene.rollout["spec"]["route"]["parentRefs"][0]
    address = users.gateway_address(cluster, parent["namespace"], parent["name"])
    host = manifests.host(stage.name, cluster.namespace)
    body = {"model": stage.name, "max_tokens": stage.scene.max_tokens, "temperature": 1.0}
    image = stage.place.loader_image
    stage.users = users.start(cluster, image, POD, address, host, body, stage.scene.prompts, rate=RATE)
    stage.voice.say(f"{RATE:.0f} users a second ask {host} through the gateway, from now on")


def alone(rollout: Object) -> bool:
    """Whether one revision has all traffic and nothing else is under way."""
    whole = variant(rollout, "Stable").get("weight") == 100
    return whole and not variant(rollout, "Candidate") and is_true(rollout, "Ready")
