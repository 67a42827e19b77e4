"""The operator under 1,000 RLHFJobs on a control plane of its own: cold start, its floor, reaction, rest, restart.

Runs on etcd, API server and controller manager without a node: the Jobs' pods are made and stay pending.
Settings for comparisons: BENCH_OBJECTS (1000), BENCH_IDLE_SECONDS (60).
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import floor
from bench.harness import Report, Row, percentile
from bench.load import Object, Watcher, create_all, watching
from opkit.api import Api
from opkit.plane import private_plane
from opkit.process import OperatorProcess, wait_for
from rlhf_operator.common.intents import MANAGED_SELECTOR
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, NAMESPACES, PVCS, RLHFJOBS
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.credentials import from_kubeconfig

NAMESPACE, FLOOR_NAMESPACE = "bench", "floor"
PROMPTS = '{"prompt": "a"}\n'
OBJECTS = int(os.environ.get("BENCH_OBJECTS", "1000"))
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
CHANGES = 200
# Spaced so that the reaction is measured rather than a queue.
CHANGE_SPACING_SECONDS = 0.05
_PATIENCE_SECONDS = 600.0
# As the operator is installed: without the kubernetes client, which tests need and kopf imports where it finds it.
_HIDDEN = "import runpy, sys; sys.modules['kubernetes'] = None; "
COMMAND = (sys.executable, "-c", _HIDDEN + "runpy.run_module('rlhf_operator', run_name='__main__')")


@dataclass
class Findings:
    """Raw figures as they come in."""

    cold_seconds: float = 0.0
    cold_cpu_seconds: float = 0.0
    cold_calls: Mapping[str, int] = field(default_factory=dict)
    rss_bytes: int = 0
    reactions: list[float] = field(default_factory=list)
    idle_calls: Mapping[str, int] = field(default_factory=dict)
    idle_seconds: float = 0.0
    restart_calls: Mapping[str, int] = field(default_factory=dict)
    restart_seconds: float = 0.0
    floor_seconds: float = 0.0
    floor_writes: int = 0


def run() -> Report:
    """The whole benchmark."""
    with private_plane() as bed, tempfile.TemporaryDirectory(prefix="rlhf-bench-") as scratch:
        api = Api(bed.kubeconfig)
        api.install_our_crds()
        api.close()
        findings = asyncio.run(_measure(bed.kubeconfig, Path(scratch)))
    return _report(findings)


def job(number: int, namespace: str = NAMESPACE) -> Object:
    """One CPU worker, graders only, a shared claim; the guard's action is what is changed later."""
    spec: dict[str, Any] = {
        "baseModel": {"pvc": {"claimName": "models", "path": "base"}},
        "dataset": {"configMap": {"name": "prompts", "key": "train.jsonl"}, "format": "Prompts"},
        "scorers": [{"name": "short", "grader": {"length": {"unit": "Words", "max": 8}}}],
        "rewards": [{"scorer": "short"}],
        "training": {"steps": 8, "batchSize": 16, "microBatchSize": 4},
        "ppo": {"miniBatches": 2},
        "compute": {"workers": 1},
        "storage": {"claimName": "models"},
        "guards": [{"name": "kl", "kl": {"max": 15}, "patience": 3, "action": "Stop"}],
        "timeouts": {"startup": "24h", "progress": "24h"},
    }
    return {
        "apiVersion": RLHFJOBS.api_version,
        "kind": RLHFJOBS.kind,
        "metadata": {"name": f"job-{number:04d}", "namespace": namespace},
        "spec": spec,
    }


async def _measure(kubeconfig: Path, scratch: Path) -> Findings:
    findings = Findings()
    async with AsyncExitStack() as stack:
        credentials = from_kubeconfig(kubeconfig)
        client = await stack.enter_async_context(KubeClient(credentials, user_agent="bench"))
        for namespace in (NAMESPACE, FLOOR_NAMESPACE):
            await _prepare(client, namespace)
        objects = await stack.enter_async_context(watching(client, RLHFJOBS, NAMESPACE))
        await objects.until(lambda seen: len(seen) == OBJECTS, 60, "the benchmark's own objects")
        settings = {"NAMESPACES": NAMESPACE, "LEASE_NAMESPACE": NAMESPACE}
        with OperatorProcess(scratch / "first", kubeconfig, command=COMMAND, settings=settings) as operator:
            started = operator.started_at
            # Every status is written after its children; to watch those too would take from what is measured.
            ended = await objects.until(_all_running, _PATIENCE_SECONDS, "a status each")
            findings.cold_seconds = ended - started
            findings.cold_cpu_seconds = operator.cpu_seconds()
            await _check_children(client)
            await asyncio.to_thread(settled, operator)
            findings.cold_calls = await asyncio.to_thread(operator.calls)
            findings.rss_bytes = operator.rss_bytes()
            before, at = await asyncio.to_thread(operator.calls), time.monotonic()
            await asyncio.sleep(IDLE_SECONDS)
            after = await asyncio.to_thread(operator.calls)
            findings.idle_seconds = time.monotonic() - at
            findings.idle_calls = {verb: after[verb] - before.get(verb, 0) for verb in after}
            async with watching(client, CONFIGMAPS, NAMESPACE) as maps:
                await maps.until(lambda seen: len(seen) >= 2 * OBJECTS, 60, "the children's ConfigMaps")
                findings.reactions = await _react(client, maps)
            findings.rss_bytes = max(findings.rss_bytes, operator.rss_bytes())
            await asyncio.to_thread(settled, operator)
            await asyncio.to_thread(operator.terminate)
        with OperatorProcess(scratch / "second", kubeconfig, command=COMMAND, settings=settings) as operator:
            await asyncio.to_thread(_all_reconciled, operator)
            findings.restart_seconds = time.monotonic() - operator.started_at
            findings.restart_calls = await asyncio.to_thread(operator.calls)
        # Last, on a server that is warm by now: in doubt the floor is the lower for it.
        made = await client.list_all(RLHFJOBS, FLOOR_NAMESPACE)
        writes = [floor.requests_of(each, PROMPTS.encode()) for each in made]
        findings.floor_writes = sum(len(each) for each in writes)
        async with watching(client, RLHFJOBS, FLOOR_NAMESPACE):
            findings.floor_seconds = await floor.send(credentials, writes)
    return findings


async def _prepare(client: KubeClient, namespace: str) -> None:
    """A namespace, what the jobs refer to, and the jobs: all there before anything is measured."""
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    prompts = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts", "namespace": namespace}}
    await client.create(CONFIGMAPS, {**prompts, "data": {"train.jsonl": PROMPTS}})
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    models = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": namespace},
    }
    await client.create(PVCS, {**models, "spec": claim})
    await create_all(client, RLHFJOBS, [job(number, namespace) for number in range(OBJECTS)])


async def _check_children(client: KubeClient) -> None:
    for resource, each in ((JOBS, 1), (CONFIGMAPS, 2)):
        found = len(await client.list_all(resource, NAMESPACE, MANAGED_SELECTOR))
        if found != each * OBJECTS:
            raise AssertionError(f"{found} {resource} for {OBJECTS} objects with {each} each")


async def _react(client: KubeClient, maps: Watcher) -> list[float]:
    """Seconds from a change of a spec to the change of its child, each seen from outside."""
    reactions = []
    for number in range(min(CHANGES, OBJECTS)):
        name = f"job-{number:04d}"
        versions = {n: m["metadata"]["resourceVersion"] for n, m in maps.objects.items() if n.startswith(name)}
        guard = [{"name": "kl", "kl": {"max": 15}, "patience": 3, "action": "Warn"}]
        sent = time.monotonic()
        await client.merge_patch(RLHFJOBS, NAMESPACE, name, {"spec": {"guards": guard}})

        def changed(seen: dict[str, Object], versions: dict[str, str] = versions) -> bool:
            return any(seen[n]["metadata"]["resourceVersion"] != version for n, version in versions.items())

        reactions.append(await maps.until(changed, 30, f"the settings of {name}") - sent)
        await asyncio.sleep(CHANGE_SPACING_SECONDS)
    return reactions


def _all_running(seen: dict[str, Object]) -> bool:
    return len(seen) == OBJECTS and all((o.get("status") or {}).get("attempts") for o in seen.values())


def settled(operator: OperatorProcess) -> None:
    """Until nothing waits and no call was made for two seconds."""
    last = (-1, 0.0)

    def still() -> bool:
        nonlocal last
        total = sum(count for verb, count in operator.calls().items() if verb != "lease")
        busy = operator.metric("rlhf_operator_queue_depth") + operator.metric("rlhf_operator_queue_working")
        if busy or total != last[0]:
            last = (total, time.monotonic())
            return False
        return time.monotonic() - last[1] > 2

    wait_for("the operator to come to rest", still, _PATIENCE_SECONDS, every=0.5)


def _all_reconciled(operator: OperatorProcess) -> None:
    operator.wait_ready()
    count = "rlhf_operator_reconcile_seconds_count"
    wait_for("a reconcile each", lambda: operator.metric(count) >= OBJECTS, _PATIENCE_SECONDS, every=0.2)
    settled(operator)


def _writes(calls: Mapping[str, int]) -> int:
    return sum(calls.get(verb, 0) for verb in ("create", "update", "patch", "delete"))


def _reads(calls: Mapping[str, int]) -> int:
    return sum(calls.get(verb, 0) for verb in ("get", "list", "watch"))


def _report(found: Findings) -> Report:
    per_hour = 3600 / found.idle_seconds / OBJECTS
    milliseconds = [1000 * seconds for seconds in found.reactions]
    rows = [
        Row(
            "cold_start_seconds",
            f"cold start to all children and status of {OBJECTS:,}, s",
            found.cold_seconds,
            "C 9.9, D 6.9",
        ),
        Row(
            "cold_start_floor_seconds",
            "the same writes from a bare client, s",
            found.floor_seconds,
        ),
        Row(
            "cold_start_over_floor",
            "cold start, process start included, over that floor",
            found.cold_seconds / found.floor_seconds,
        ),
        Row(
            "cpu_seconds_cold",
            "operator CPU at cold start, process start included, s",
            found.cold_cpu_seconds,
            "C 5.6, D 2.1",
        ),
        Row(
            "writes_per_object_cold",
            "writes per object at cold start, events included",
            _writes(found.cold_calls) / OBJECTS,
        ),
        Row("spec_to_child_p50_ms", "spec change to child, p50, ms", percentile(milliseconds, 50), "C 15, D 14"),
        Row("spec_to_child_p95_ms", "spec change to child, p95, ms", percentile(milliseconds, 95), "C 22, D 20"),
        Row(
            "reads_per_idle_object_hour",
            "reads per idle object and hour, watches included",
            _reads(found.idle_calls) * per_hour,
            "C 0, D 0",
        ),
        Row(
            "writes_per_idle_object_hour", "writes per idle object and hour", _writes(found.idle_calls) * per_hour, "0"
        ),
        Row("restart_writes", f"writes after a restart over {OBJECTS:,} converged", _writes(found.restart_calls), "0"),
        Row("rss_mb", f"resident memory with {OBJECTS:,}, 10^6 bytes", found.rss_bytes / 1e6, "C 115-125, D 62"),
    ]
    notes = [
        "C and D were prototypes whose three children were no Jobs. Here one child is, and the Job controller makes a",
        "pod for it and writes its status: a cold start waits for the API server. The floor is what that server takes",
        f"for the same {found.floor_writes:,} writes (events left out), {floor.AT_ONCE} at a time, from a client that "
        "decides nothing.",
        f"requests at cold start: {_words(found.cold_calls)}",
        f"requests in {found.idle_seconds:.0f} idle seconds: {_words(found.idle_calls)}",
        f"requests at restart ({found.restart_seconds:.1f} s to the last reconcile): {_words(found.restart_calls)}",
    ]
    details = {"objects": OBJECTS, "cold": found.cold_calls, "idle": found.idle_calls, "restart": found.restart_calls}
    return Report(rows, notes, details)


def _words(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{verb} {count}" for verb, count in sorted(calls.items()) if count)
