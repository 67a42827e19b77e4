"""Time from a candidate's first bad answer to weight 0: real users, gateway, Prometheus, operator and vLLM on the bed.

A candidate at a quarter of the users' traffic answers well until, at a random moment of an analysis interval, every
second answer becomes a 500. A run is over when it is rolled back and no user reaches it; then it is mended, `retry`
lets it be tried again, and the next run begins, on the same pods. Every part is seen from outside the operator: by
users, by Prometheus' own samples, by a recorder between it and the operator, and by a watch of the HTTPRoute.

Takes about 10 min to start both revisions, and a minute a run. Settings for comparisons: BENCH_RUNS (20),
BENCH_INTERVAL (30, seconds of analysis.interval), BENCH_RATE (4, requests/s), BENCH_MINUTES (60: no run begins later).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

import testbed
from bench.harness import Report, Row, percentile
from bench.timeline import FAULT, Query, Timeline, timeline
from demo.cluster import Cluster
from demo.faulty import faulty_serving
from e2e.harness import OPERATOR_PODS, Site, open_space, remove_namespace
from e2e.harness_jobs import merge
from e2e.harness_load import Users, start_users
from e2e.harness_pods import start_script
from e2e.harness_rewardmodels import RewardModels
from e2e.harness_rollouts import Rollouts, upload_policies, variant
from rlhf_operator.api import signals
from testbed.binaries import require
from testbed.dockerfiles import OPERATOR
from testbed.progress import Progress
from testbed.provision import load_image, server_template
from trainer.core.tiny import PROMPTS

NAMESPACE, NAME, STEP = "bench-rollback", "assistant", "quarter"
RUNS = int(os.environ.get("BENCH_RUNS", "20"))
INTERVAL_SECONDS = float(os.environ.get("BENCH_INTERVAL", "30"))
MINUTES = float(os.environ.get("BENCH_MINUTES", "60"))
RATE = float(os.environ.get("BENCH_RATE", "4"))
SCRAPE_SECONDS = 5
WEIGHT = 25
LIMIT = 0.05
PROMETHEUS = "prometheus.monitoring.svc:9090"
RECORDER = f"http://recorder.{NAMESPACE}.svc:9090"
_START_SECONDS = 1200
_PARTS = ("scrape", "wait", "query", "decide", "write", "gateway")

_FAULT = """
import os, random
from starlette import routing
answer = routing.Router.__call__
async def fail(self, scope, receive, send):
    if scope.get("path") == "/v1/completions" and os.path.exists("/tmp/fault") and random.random() < 0.5:
        raise RuntimeError("a fault of this build")
    await answer(self, scope, receive, send)
routing.Router.__call__ = fail
"""
_RECORDER = """
import http.client, http.server, json, os, threading, time
lock = threading.Lock()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        began = time.time()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = http.client.HTTPConnection(os.environ["SERVER"], timeout=30)
        server.request("POST", self.path, body, {"Content-Type": self.headers["Content-Type"]})
        answer = server.getresponse()
        text = answer.read()
        server.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        with lock:
            print(json.dumps([began, time.time(), body.startswith(b"query=time")]), flush=True)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("", 9090), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Bed:
    """Everything that the runs use."""

    rollouts: Rollouts
    users: Users
    second: str
    pod: str
    user: str

    @property
    def cluster(self) -> Cluster:
        """The namespace."""
        return self.rollouts.space.cluster


def run() -> Report:
    """The whole benchmark."""
    progress = Progress()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlhf-bench-")))
        rollouts = stack.enter_context(_rollouts(scratch, progress))
        bed = _started(rollouts, progress)
        watch = stack.enter_context(_watching(bed))
        writes = _writes(bed)
        lines = []
        source = random.Random(1)
        for number in range(RUNS):
            if lines and progress.elapsed_seconds > 60 * MINUTES:
                break
            lines.append(_one(bed, watch, number, source.uniform(0, INTERVAL_SECONDS)))
            parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in lines[-1].parts().items())
            progress.say(f"run {number + 1} of {RUNS}: {lines[-1].seconds:.1f} s ({parts}), {lines[-1].harmed} failed")
        count, seconds = (after - before for after, before in zip(_writes(bed), writes, strict=True))
        seen = bed.users.end()
    others = [each for each in seen if each.failed and each.code != FAULT]
    return _report(lines, seconds / max(1.0, count), len(others))


@contextmanager
def _rollouts(scratch: Path, progress: Progress) -> Iterator[Rollouts]:
    bed = testbed.ensure(testbed.Profile.NODE, progress)
    site = Site(
        kubectl=bed.kubectl_binary,
        helm=require(["helm"], bed.paths, progress)["helm"],
        kubeconfig=bed.kubeconfig,
        operator_image=load_image(bed, OPERATOR, progress),
        template=None,
        files=scratch / "input",
    )
    site.files.mkdir()
    site.cluster("default").run(
        "apply", "--server-side", "--force-conflicts", "-f", str(Path(__file__).parents[2] / "crds")
    )
    analysis = {"scrapeSeconds": SCRAPE_SECONDS, "allowedURLs": [RECORDER]}
    space = open_space(site, NAMESPACE, prometheusURL=f"http://{PROMETHEUS}", analysis=analysis)
    try:
        digests = upload_policies(space, scratch)
        yield Rollouts(space, RewardModels(space, server_template(bed)).template_of("server"), None, digests)
    finally:
        remove_namespace(space.cluster, wait=False)


def _started(rollouts: Rollouts, progress: Progress) -> Bed:
    """Both revisions up, users at the gateway, the candidate in its step."""
    space = rollouts.space
    start_script(space, "recorder", _RECORDER, {"SERVER": PROMETHEUS})
    space.cluster.run("label", "pod", "recorder", "app=recorder")
    port = {"port": 9090, "targetPort": 9090}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "recorder"}}
    space.cluster.apply([service | {"spec": {"selector": {"app": "recorder"}, "ports": [port]}}])
    spec = rollouts.spec(
        "first",
        strategy={
            "steps": [{"name": STEP, "weight": WEIGHT, "hold": {"minimum": "24h"}}],
            "scaleDownDelay": "24h",
            "progressDeadline": "20m",
        },
    )
    spec["analysis"] = {
        "interval": f"{INTERVAL_SECONDS:.0f}s",
        "prometheus": {"url": RECORDER},
        "metrics": [{"name": "errors", "preset": {"errorRate": {"max": LIMIT}}}],
    }
    rollouts.apply(NAME, spec)
    rollouts.settled(NAME, "first", _START_SECONDS)
    progress.say("the first revision serves")
    users = start_users(space, "users", rollouts.host, NAME, PROMPTS, rate=RATE, tokens=4)
    rollouts.apply(NAME, _breakable(rollouts, spec))
    second = variant(rollouts.step(NAME, STEP, _START_SECONDS), "Candidate")["revision"]
    (pod,) = rollouts.pods(NAME, second)
    user = space.cluster.run("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}").decode()
    progress.say("the candidate has its weight")
    return Bed(rollouts, users, second, pod["metadata"]["name"], user)


def _breakable(rollouts: Rollouts, spec: dict[str, Any]) -> dict[str, Any]:
    """The second policy in a build that answers every second request with 500 while a file lies in /tmp."""
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fault"}}
    rollouts.space.cluster.apply([data | {"data": {"sitecustomize.py": _FAULT}}])
    changes = {"model": rollouts.model("second"), "serving": faulty_serving(spec["serving"], "fault")}
    return merge(spec, changes)


class Watch:
    """The HTTPRoute, as a watch tells of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        """When a version was seen, and the candidate's weight in it."""
        self._came = threading.Condition()

    def follow(self, lines: Iterator[bytes], weight: Callable[[dict[str, Any]], int]) -> None:
        """Until the watch ends."""
        for line in lines:
            at = time.time()
            with self._came:
                self.seen.append((at, weight(json.loads(line))))
                self._came.notify_all()

    def none_after(self, at: float, seconds: float) -> float:
        """Wait for the first version without weight that came after a moment; returns when it did."""
        deadline = time.monotonic() + seconds
        with self._came:
            while not (found := [when for when, weight in self.seen if when > at and weight == 0]):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no route with weight 0 within {seconds:.0f} s; seen: {self.seen[-5:]}")
                self._came.wait(left)
        return found[0]


@contextmanager
def _watching(bed: Bed) -> Iterator[Watch]:
    cluster = bed.cluster
    command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "-n", cluster.namespace]
    command += ["get", "httproute", NAME, "--watch", "-o", 'jsonpath={@}{"\\n"}']

    def weight(route: dict[str, Any]) -> int:
        backends = [each for rule in route["spec"]["rules"] for each in rule.get("backendRefs") or ()]
        return sum(each.get("weight", 1) for each in backends if bed.second in each["name"])

    watch = Watch()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    thread = threading.Thread(target=watch.follow, args=(iter(process.stdout), weight), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        process.terminate()
        process.wait(10)
        thread.join(10)


def _one(bed: Bed, watch: Watch, number: int, phase: float) -> Timeline:
    """One run, from a healthy candidate in its step to one that nobody reaches."""
    rollouts, cluster = bed.rollouts, bed.cluster
    if number:
        word = f"bench-{number} retry {bed.second} - {bed.user}"
        cluster.run("annotate", "policyrollout", NAME, f"rlhf.dev/command={word}", "--overwrite")
        rollouts.step(NAME, STEP)
    # The moment within an interval is what is drawn: nothing is waited for.
    time.sleep(phase)
    began = time.time()
    _in_pod(bed, "open('/tmp/fault', 'w').close()")
    written = watch.none_after(began, 10 * INTERVAL_SECONDS)
    rollouts.rolled_back(NAME, 60)
    _in_pod(bed, "import os; os.remove('/tmp/fault')")
    seen = bed.users.more(round(5 * RATE))
    return timeline(began, written, seen, _scrapes(bed), _queries(cluster), bed.second)


def _in_pod(bed: Bed, program: str) -> None:
    bed.cluster.run("exec", bed.pod, "-c", "server", "--", "python3", "-c", program)


def _scrapes(bed: Bed) -> list[tuple[float, float]]:
    """Failed answers of the candidate to users, by scrape, of the last ten intervals."""
    who = f'rlhf_namespace="{NAMESPACE}",rlhf_rollout="{NAME}",revision="{bed.second}",role="live",outcome="error"'
    query = f"{signals.REQUESTS}{{{who}}}[{10 * INTERVAL_SECONDS:.0f}s]"
    namespace, port = "monitoring", "9090"
    path = f"/api/v1/namespaces/{namespace}/services/prometheus:{port}/proxy/api/v1/query?query={quote(query)}"
    answer = json.loads(bed.cluster.run("get", "--raw", path))
    counts: dict[float, float] = {}
    for series in answer["data"]["result"]:
        for at, count in series["values"]:
            counts[float(at)] = counts.get(float(at), 0.0) + float(count)
    return sorted(counts.items())


def _queries(cluster: Cluster) -> list[Query]:
    lines = cluster.run("logs", "recorder").decode().splitlines()
    # Who hangs up on the recorder is told of by Python, in lines of other kinds.
    return [Query(*json.loads(line)) for line in lines if line.startswith("[") and line.endswith("]")]


def _writes(bed: Bed) -> tuple[float, float]:
    """Patches that the operator has sent to the API server: how many, and the seconds they took together."""
    (pod,) = bed.cluster.objects("pods", OPERATOR_PODS)
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    text = bed.cluster.run("get", "--raw", path).decode()
    found = {"count": 0.0, "sum": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            what = sample.name.removeprefix("rlhf_operator_api_request_seconds_")
            if what in found and sample.labels.get("verb") == "patch":
                found[what] += sample.value
    return found["count"], found["sum"]


def _report(lines: Sequence[Timeline], write_seconds: float, others_failed: int) -> Report:
    whole = [each.seconds for each in lines]
    found = [each.parts() for each in lines]
    parts = {name: [each[name] for each in found] for name in found[0]}
    # What is left between the last answer and the route, without the operator's own mean of a write.
    parts["decide"] = [max(0.0, seconds - write_seconds) for seconds in parts["write"]]
    parts["write"] = [min(write_seconds, seconds) for seconds in parts["write"]]
    intervals = [seconds / INTERVAL_SECONDS for seconds in whole]
    rows = [
        Row(
            "intervals_to_zero_weight_p95",
            "first bad answer to weight 0, intervals, p95",
            percentile(intervals, 95),
            "<= 2",
        ),
        Row("seconds_to_zero_weight_p95", "the same, s, p95", percentile(whole, 95)),
        Row("seconds_to_zero_weight_p50", "the same, s, p50", percentile(whole, 50)),
    ]
    for name in _PARTS:
        for percent in (50, 95):
            value = percentile(parts[name], percent)
            rows.append(Row(f"{name}_seconds_p{percent}", f"  {_WORDS[name]}, s, p{percent}", value))
    rows += [
        Row("harmed_p50", "failed answers of a run, p50", percentile([float(each.harmed) for each in lines], 50)),
        Row("failed_otherwise", "failed answers that the candidate did not give", others_failed, "0"),
        Row("runs", "runs", len(lines)),
    ]
    notes = [
        f"analysis.interval {INTERVAL_SECONDS:.0f} s, scraped every {SCRAPE_SECONDS} s, {RATE:g} requests/s, candidate "
        f"at {WEIGHT} %, every second answer 500, errorRate max {LIMIT:g}; the fault begins anywhere in an interval",
        "gateway: until a user asked and from then on none got an answer of the candidate's: late by a request at most",
        "write: the operator's own mean of its writes; decide: what is left between the answers and the route",
    ]
    return Report(rows, notes, {"seconds": whole, "parts": parts})


_WORDS = {
    "scrape": "first bad answer to its scrape",
    "wait": "until the round that proves it begins",
    "query": "query",
    "decide": "decide",
    "write": "write of the route",
    "gateway": "gateway",
}
