"""The images as users get them: built from their Dockerfiles, with nothing mounted from the host."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

import testbed
from e2e.harness import Site, Space, open_space, remove_namespace
from e2e.harness_jobs import STEPS, ppo_spec
from testbed.dockerfiles import OPERATOR, TRAINER
from testbed.provision import load_image

pytestmark = pytest.mark.e2e

PROBE = """
import importlib.util, json, os, sys
print(json.dumps({
    "uid": os.getuid(),
    "operator": importlib.util.find_spec("rlhf_operator") is not None,
    "heavy": [name for name in ("torch", "transformers", "vllm") if importlib.util.find_spec(name)],
    "python": list(sys.version_info[:2]),
}))
"""


def test_the_operators_image_holds_the_operator_and_nothing_heavy_and_runs_as_nobody(
    site: Site, open_named: Callable[..., Space]
) -> None:
    space = open_named()
    image = load_image(testbed.ensure("node"), OPERATOR)
    command = ["python", "-c", PROBE]
    container = {"name": "probe", "image": image, "command": command}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {"restartPolicy": "Never", "securityContext": {"runAsNonRoot": True}, "containers": [container]},
    }
    space.cluster.apply([pod])
    space.cluster.run("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/probe", "--timeout=120s")
    seen = json.loads(space.cluster.run("logs", "probe"))
    assert seen["uid"] == 65532
    assert seen["operator"]
    assert seen["heavy"] == []
    assert seen["python"] >= [3, 11]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_trainers_image_trains_with_nothing_mounted(site: Site) -> None:
    image = load_image(testbed.ensure("node"), TRAINER)
    repository, _, tag = image.rpartition(":")
    bare = replace(site, template=None)
    space = open_space(bare, "e2e-trainer-image", trainer={"image": {"repository": repository, "tag": tag}})
    try:
        # Nothing compiled is at hand in a fresh image: the first start takes longer than on the bed's shared cache.
        space.submit("ppo", ppo_spec(bare, timeouts={"startup": "15m"}))
        space.complete("ppo", 1500)
        images = {pod["spec"]["containers"][0]["image"] for pod in space.pods("ppo", attempt=1)}
        assert images == {image}
        assert space.result("ppo").step == STEPS
    finally:
        remove_namespace(space.cluster, wait=False)
