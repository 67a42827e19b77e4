"""The operator under 1,000 PolicyRollouts, 100 of them measuring every 30 s: CPU, memory, calls, queries, lateness.

A control plane with simulated pods (kwok), a gateway's controller played by this process, and a real Prometheus.
Takes about BENCH_SECONDS + 4 min; what it is at is told on the way. Settings for comparisons: BENCH_OBJECTS (1000),
BENCH_ANALYSING (100), BENCH_SECONDS (180), BENCH_IDLE_SECONDS (60).
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.harness import Report, Row, percentile
from bench.load import Object, Watcher, create_all, watching
from bench.meter import Meter, Spent, by_resource
from bench.operator import COMMAND, settled
from opkit.api import Api
from opkit.plane import private_plane
from opkit.process import OperatorProcess
from opkit.prometheus import RunningPrometheus, exposed, prometheus
from rlhf_operator.api import signals
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.resources import HTTPROUTES, NAMESPACES, POLICYROLLOUTS, PVCS, PVS
from rlhf_operator.errors import KubeError
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.credentials import from_kubeconfig
from testbed import kwok
from testbed.gateway import api_crds
from testbed.paths import Paths
from testbed.progress import Progress

NAMESPACE = "bench"
OBJECTS = int(os.environ.get("BENCH_OBJECTS", "1000"))
ANALYSING = int(os.environ.get("BENCH_ANALYSING", "100"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "180"))
IDLE_SECONDS = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
INTERVAL_SECONDS = 30.0
_PATIENCE_SECONDS = 1800.0
_ERRORS_PER_REQUEST = 0.002
_REQUESTS_PER_SECOND = 10.0


@dataclass
class Findings:
    """Raw figures as they come in."""

    cold_seconds: float = 0.0
    cold_cpu_seconds: float = 0.0
    cold_calls: Mapping[str, int] = field(default_factory=dict)
    cold_by_resource: Mapping[str, float] = field(default_factory=dict)
    idle: Spent | None = None
    """Everything serves, nothing is under way."""
    steady: Spent | None = None
    """Rounds go on, nothing else changes."""
    rss_bytes: int = 0
    lateness: list[float] = field(default_factory=list)
    """Seconds from when a round was due to when its measurements were seen on record, of each round."""
    broken: int = 0
    """Rounds that could not be measured."""


def run() -> Report:
    """The whole benchmark."""
    progress = Progress()
    with private_plane() as bed, tempfile.TemporaryDirectory(prefix="rlhf-bench-") as scratch:
        api = Api(bed.kubeconfig)
        api.install_our_crds()
        for crd in api_crds(Paths.default(), progress):
            api.install_crd(crd)
        api.close()
        kwok.start(bed)
        try:
            traffic = Traffic()
            with (
                exposed(traffic.text) as port,
                prometheus(Path(scratch) / "prometheus", port, interval="15s") as server,
            ):
                findings = asyncio.run(_measure(bed.kubeconfig, Path(scratch), server, traffic, progress))
        finally:
            kwok.stop(bed)
    return _report(findings)


def rollout(number: int, model: str = "one") -> Object:
    """Two pods; the first ANALYSING are given a second artifact later, and stay in a long first step with it."""
    metrics = [
        {"name": "errors", "preset": {"errorRate": {"max": 0.05}}},
        {"name": "ratio", "preset": {"errorRate": {"maxRatio": 2}}},
        {"name": "tokens", "preset": {"tokensPerRequest": {"max": 4000}}},
    ]
    spec: dict[str, Any] = {
        "model": {"artifact": artifact(model)},
        "serving": {"replicas": 1, "drainTimeout": "1s"},
        "route": {"parentRefs": [{"name": "public", "namespace": "gateway"}]},
        "strategy": {"steps": [{"name": "ten", "weight": 10, "hold": {"minimum": "24h"}}], "scaleDownDelay": "1s"},
        "analysis": {"interval": f"{INTERVAL_SECONDS:.0f}s", "metrics": metrics},
    }
    meta = {"name": f"policy-{number:04d}", "namespace": NAMESPACE}
    return {"apiVersion": POLICYROLLOUTS.api_version, "kind": POLICYROLLOUTS.kind, "metadata": meta, "spec": spec}


def artifact(model: str) -> Object:
    """A model on a claim, by any name."""
    return {"pvc": {"claimName": "models", "path": f"policies/{model}"}, "digest": sha256_of(model.encode())}


class Traffic:
    """What the serving pods of the rollouts that measure expose: steady traffic, both revisions alike."""

    def __init__(self) -> None:
        self.revisions: dict[str, tuple[str, str]] = {}
        """Stable and candidate by rollout."""
        self._started = time.monotonic()

    def text(self) -> str:
        """The exposition now."""
        count = (time.monotonic() - self._started) * _REQUESTS_PER_SECOND
        lines = []
        for rollout, revisions in self.revisions.items():
            for revision in revisions:
                who = f'rlhf_namespace="{NAMESPACE}",rlhf_rollout="{rollout}",revision="{revision}",role="live"'
                lines += [
                    f'{signals.REQUESTS}{{{who},outcome="ok"}} {count}',
                    f'{signals.REQUESTS}{{{who},outcome="error"}} {count * _ERRORS_PER_REQUEST}',
                    f'{signals.TOKENS}{{{who},direction="output"}} {count * 200}',
                    f"{signals.TOKENS_SQUARED}{{{who}}} {count * 50000}",
                ]
        return "\n".join(lines) + "\n"


async def _measure(
    kubeconfig: Path, scratch: Path, server: RunningPrometheus, traffic: Traffic, progress: Progress
) -> Findings:
    findings = Findings()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(KubeClient(from_kubeconfig(kubeconfig), user_agent="bench"))
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        await _claim(client)
        await create_all(client, POLICYROLLOUTS, [rollout(number) for number in range(OBJECTS)])
        objects = await stack.enter_async_context(watching(client, POLICYROLLOUTS, NAMESPACE))
        await objects.until(lambda seen: len(seen) == OBJECTS, 60, "the benchmark's own objects")
        await stack.enter_async_context(_gateway(client))
        settings = {
            "NAMESPACES": NAMESPACE,
            "LEASE_NAMESPACE": NAMESPACE,
            "PROMETHEUS_URL": server.url,
            "PROMETHEUS_SCRAPE_SECONDS": "15",
            "GATEWAY_MIRROR": "supported",
            "SERVER_IMAGE": "registry.example/server:1",
        }
        with OperatorProcess(scratch / "operator", kubeconfig, command=COMMAND, settings=settings) as operator:
            phases = asyncio.create_task(_phases(client, objects, operator, server, traffic, findings, progress))
            ended = asyncio.create_task(_ended(operator))
            await asyncio.wait((phases, ended), return_when=asyncio.FIRST_COMPLETED)
            for each in (phases, ended):
                each.cancel()
            await (ended if ended.done() else phases)
    return findings


async def _ended(operator: OperatorProcess) -> None:
    """Raise once the operator has ended: on a machine that is too busy it loses its Lease, and nothing goes on."""
    code = await asyncio.to_thread(operator.process.wait)
    raise RuntimeError(f"the operator ended with {code}:\n{operator.log()[-1000:]}")


async def _phases(
    client: KubeClient,
    objects: Watcher,
    operator: OperatorProcess,
    server: RunningPrometheus,
    traffic: Traffic,
    findings: Findings,
    progress: Progress,
) -> None:
    """Cold start, rest, candidates, rounds."""
    ended = await objects.until(_all_serve, _PATIENCE_SECONDS, "every first revision at 100 %")
    findings.cold_seconds = ended - operator.started_at
    findings.cold_cpu_seconds = operator.cpu_seconds()
    findings.cold_calls = await asyncio.to_thread(operator.calls)
    findings.cold_by_resource = await asyncio.to_thread(by_resource, operator)
    progress.say(f"{OBJECTS} serve; at rest for {IDLE_SECONDS:.0f} s")
    await asyncio.to_thread(settled, operator)
    before = await asyncio.to_thread(Meter.read, operator, server)
    await asyncio.sleep(IDLE_SECONDS)
    findings.idle = Spent.between(before, await asyncio.to_thread(Meter.read, operator, server))
    await asyncio.gather(*(_ask_for(client, number, "two") for number in range(ANALYSING)))
    await objects.until(_all_measure, _PATIENCE_SECONDS, "every candidate in its step")
    traffic.revisions = {name: _revisions(each) for name, each in objects.objects.items() if _steps(each)}
    progress.say(f"{ANALYSING} candidates have their first weight")
    await objects.until(_all_measured, _PATIENCE_SECONDS, "a first round each")
    progress.say(f"rounds of each for {SECONDS:.0f} s")
    await _watch_rounds(objects, operator, server, findings)


async def _claim(client: KubeClient) -> None:
    """The claim that every pod mounts, bound to a volume: without it the scheduler leaves them pending."""
    size, modes = {"storage": "1Gi"}, ["ReadWriteMany"]
    volume = {"capacity": size, "accessModes": modes, "storageClassName": "", "hostPath": {"path": "/nowhere"}}
    await client.create(
        PVS, {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "m"}, "spec": volume}
    )
    wanted = {"accessModes": modes, "storageClassName": "", "volumeName": "m", "resources": {"requests": size}}
    meta = {"name": "models", "namespace": NAMESPACE}
    await client.create(PVCS, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": wanted})


async def _watch_rounds(
    objects: Watcher, operator: OperatorProcess, server: RunningPrometheus, findings: Findings
) -> None:
    """Steady state: rounds go on, nothing else changes."""
    last = {name: at for name, each in objects.objects.items() if (at := _measured_at(each)) is not None}
    before = await asyncio.to_thread(Meter.read, operator, server)
    deadline = before.at + SECONDS

    def over(seen: dict[str, Object]) -> bool:
        now = datetime.now(UTC)
        for name, former in last.items():
            at = _measured_at(seen[name])
            if at is not None and at > former:
                findings.lateness.append((now - former).total_seconds() - INTERVAL_SECONDS)
                findings.broken += any(one["outcome"] == "Error" for one in seen[name]["status"]["analysis"])
                last[name] = at
        return time.monotonic() >= deadline

    await objects.until(over, SECONDS + 60, "the time to be over")
    findings.steady = Spent.between(before, await asyncio.to_thread(Meter.read, operator, server))
    findings.rss_bytes = operator.rss_bytes()


@asynccontextmanager
async def _gateway(client: KubeClient) -> AsyncIterator[None]:
    """Accept every route at its own generation, as a gateway's controller does."""
    async with watching(client, HTTPROUTES, NAMESPACE) as routes:
        told: dict[str, int] = {}

        async def accept() -> None:
            while True:
                fresh = [each for name, each in routes.objects.items() if told.get(name) != _generation(each)]
                await asyncio.gather(*(one(each) for each in fresh))
                await asyncio.sleep(0.05)

        async def one(route: Object) -> None:
            name, generation = route["metadata"]["name"], _generation(route)
            at = "2026-01-31T12:00:00Z"
            said = [
                {
                    "type": kind,
                    "status": "True",
                    "reason": kind,
                    "message": "",
                    "observedGeneration": generation,
                    "lastTransitionTime": at,
                }
                for kind in ("Accepted", "ResolvedRefs")
            ]
            parents = [
                {"parentRef": each, "controllerName": "example.com/gateway", "conditions": said}
                for each in route["spec"]["parentRefs"]
            ]
            try:
                version = route["metadata"]["resourceVersion"]
                await client.replace_status(HTTPROUTES, NAMESPACE, name, version, {"parents": parents})
                told[name] = generation
            except KubeError:
                return

        task = asyncio.create_task(accept())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _ask_for(client: KubeClient, number: int, model: str) -> None:
    body = {"spec": {"model": {"artifact": artifact(model)}}}
    await client.merge_patch(POLICYROLLOUTS, NAMESPACE, f"policy-{number:04d}", body)


def _generation(each: Object) -> int:
    return int(each["metadata"]["generation"])


def _variants(each: Object) -> dict[str, Object]:
    return {one["name"]: one for one in (each.get("status") or {}).get("variants") or () if one.get("revision")}


def _revisions(each: Object) -> tuple[str, str]:
    found = _variants(each)
    return found["Stable"]["revision"], found["Candidate"]["revision"]


def _steps(each: Object) -> bool:
    step = (each.get("status") or {}).get("step") or {}
    return step.get("name") == "ten" and bool(step.get("startedAt"))


def _all_serve(seen: dict[str, Object]) -> bool:
    return len(seen) == OBJECTS and all(
        _variants(each).get("Stable", {}).get("weight") == 100 for each in seen.values()
    )


def _all_measure(seen: dict[str, Object]) -> bool:
    return sum(_steps(each) for each in seen.values()) == ANALYSING


def _all_measured(seen: dict[str, Object]) -> bool:
    return sum(_measured_at(each) is not None for each in seen.values()) == ANALYSING


def _measured_at(each: Object) -> datetime | None:
    found = [one["at"] for one in (each.get("status") or {}).get("analysis") or () if one.get("at")]
    return max((datetime.fromisoformat(at.replace("Z", "+00:00")) for at in found), default=None)


def _report(found: Findings) -> Report:
    steady, idle = found.steady, found.idle
    assert steady is not None
    assert idle is not None
    rounds = max(1, len(found.lateness))
    lateness = found.lateness or [math.nan]
    per_hour = 3600 / idle.seconds / OBJECTS
    rows = [
        Row("cold_start_seconds", f"cold start of {OBJECTS:,} to 100 % each, s", found.cold_seconds),
        Row("cpu_seconds_cold", "operator CPU until then, s", found.cold_cpu_seconds),
        Row("rss_mb", f"resident memory with {OBJECTS:,}, {ANALYSING} measuring, 10^6 bytes", found.rss_bytes / 1e6),
        Row("idle_cpu_share", f"operator CPU while {OBJECTS:,} serve at rest, cores", idle.cpu_seconds / idle.seconds),
        Row("idle_reconciles_per_hour", "looks per idle object and hour", idle.reconciles * per_hour),
        Row("idle_reads_per_hour", "API reads per idle object and hour, watches included", _reads(idle) * per_hour),
        Row("idle_writes_per_hour", "API writes per idle object and hour", _writes(idle) * per_hour, "0"),
        Row("cpu_share", f"operator CPU while {ANALYSING} measure, cores", steady.cpu_seconds / steady.seconds),
        Row("cpu_ms_per_round", "operator CPU per round, ms", 1000 * steady.cpu_seconds / rounds),
        Row("queries_per_second", "queries to Prometheus per second", steady.queries / steady.seconds),
        Row("queries_per_round", "queries per round", steady.queries / rounds),
        Row("reconciles_per_round", "looks per round", steady.reconciles / rounds),
        Row("writes_per_round", "API writes per round", _writes(steady) / rounds, "1: the status"),
        Row("reads_per_round", "API reads per round, watches included", _reads(steady) / rounds),
        Row("broken_rounds", "rounds that could not be measured", found.broken, "0"),
        Row("lateness_p50_seconds", "a round on record after it was due, p50, s", percentile(lateness, 50)),
        Row("lateness_p95_seconds", "a round on record after it was due, p95, s", percentile(lateness, 95)),
        Row("lateness_max_seconds", "a round on record after it was due, worst, s", max(lateness)),
    ]
    notes = [
        f"{len(found.lateness)} rounds in {steady.seconds:.0f} s, every {INTERVAL_SECONDS:.0f} s, three metrics",
        f"requests at cold start: {_words(found.cold_calls)}",
        f"requests in {idle.seconds:.0f} s at rest: {_words(idle.calls)}",
        f"requests while they measure: {_words(steady.calls)}",
    ]
    details = {
        "objects": OBJECTS,
        "analysing": ANALYSING,
        "cold": found.cold_by_resource,
        "idle": idle.calls,
        "steady": steady.calls,
    }
    return Report(rows, notes, details)


def _writes(spent: Spent) -> int:
    return spent.count("create", "update", "patch", "delete")


def _reads(spent: Spent) -> int:
    return spent.count("get", "list", "watch")


def _words(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{verb} {count}" for verb, count in sorted(calls.items()) if count)
