"""The images as users get them: built from their Dockerfiles, with nothing mounted from the host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import testbed
from e2e.harness import CLAIM, Site, Space, open_space, remove_namespace
from e2e.harness_jobs import STEPS, ppo_spec
from testbed.dockerfiles import OPERATOR, SERVER, TRAINER, Dockerfile
from testbed.provision import load_image, unload_image

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


@contextmanager
def large_image(dockerfile: Dockerfile) -> Iterator[str]:
    """An image of many gigabytes in the cluster, for one test: two of them at a time would fill the disk."""
    bed = testbed.ensure("node")
    name = load_image(bed, dockerfile)
    try:
        yield name
    finally:
        unload_image(bed, name)


ASK = """
import json, urllib.request
body = json.dumps({"model": "policy", "prompt": "hello", "max_tokens": 4, "temperature": 0}).encode()
asked = urllib.request.Request("http://127.0.0.1:8000/v1/completions", body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_trainers_image_trains_with_nothing_mounted(site: Site) -> None:
    with large_image(TRAINER) as image:
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
            remove_namespace(space.cluster, wait=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_servers_image_serves_a_policy_with_nothing_but_its_files_mounted(
    site: Site, open_named: Callable[..., Space]
) -> None:
    space = open_named()
    with large_image(SERVER) as image:
        space.cluster.apply([server_pod(image)])
        # A fresh image compiles what it imports, and vLLM its kernels.
        space.cluster.run("wait", "--for=condition=Ready", "pod/server", "--timeout=900s", timeout_seconds=920)
        answer = json.loads(space.cluster.run("exec", "server", "--", "python", "-c", ASK))
        assert answer["usage"]["completion_tokens"] > 0
        assert space.named_pod("server")["spec"]["containers"][0]["image"] == image
        space.cluster.run("delete", "pod", "server", "--grace-period=1")


def server_pod(image: str) -> dict[str, Any]:
    """The server on a CPU, with the tiny base model as its policy."""
    model = {"name": "model", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}
    container = {
        "name": "server",
        "image": image,
        "args": [
            *("--model", "/models/input/base", "--served-model-name", "policy", "--port", "8000"),
            *("--dtype", "float32", "--enforce-eager", "--max-model-len", "64", "--max-num-seqs", "4"),
        ],
        "env": [
            {"name": name, "value": value}
            for name, value in (
                ("VLLM_CPU_KVCACHE_SPACE", "1"),
                ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
                ("OMP_NUM_THREADS", "1"),
                ("HF_HUB_OFFLINE", "1"),
            )
        ],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "256Mi"}, "limits": {"memory": "6Gi"}},
        "volumeMounts": [
            {"name": "model", "mountPath": "/models", "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server"},
        "spec": {
            "restartPolicy": "Never",
            # A Service named `vllm` would set VLLM_PORT.
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "fsGroup": 65532},
            "containers": [container],
            "volumes": [model, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        },
    }
