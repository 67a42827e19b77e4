"""A namespace with an operator, a claim and files of its own, in which one test runs its jobs. Specs: harness_jobs.py.

Works on any cluster: files go in and out through a pod, and nothing looks at the node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demo.cluster import MOUNT, Cluster, ClusterError, Loader, Object, condition, is_true
from demo.install import CHART
from rlhf_operator.api.result import Result

CLAIM = "work"
RELEASE = "rlhf-operator"
OPERATOR_PODS = f"app.kubernetes.io/instance={RELEASE}"
LEASE = RELEASE
END = ("Complete", "Failed")
PROGRESS_SECONDS = 1
"""How often the operator asks a running job: tests wait for steps."""

FILES_POD = "files"
_DIGESTS = """
import hashlib, json, pathlib
root = pathlib.Path({!r})
files = sorted(path for path in root.rglob('*') if path.is_file())
print(json.dumps({{str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}}))
"""

Probe = Callable[[Object], Any]


@dataclass(frozen=True, slots=True)
class Site:
    """What all tests of a session share: the cluster, the images in it, and the files that jobs start from."""

    kubectl: Path
    helm: Path
    kubeconfig: Path
    operator_image: str
    template: Object | None
    """Pod template by which training pods find Python; None where the trainer image holds it."""
    files: Path
    """Folder with the tiny base model and the prompts."""

    def cluster(self, namespace: str) -> Cluster:
        """This cluster, with a namespace."""
        return Cluster(self.kubectl, self.helm, self.kubeconfig, namespace)


@dataclass(frozen=True, slots=True)
class Space:
    """One test's namespace. Make it with `open_space`."""

    site: Site
    cluster: Cluster
    files: Loader

    def install(self, **values: Any) -> None:
        """Install or upgrade this namespace's operator by the chart; returns when it is ready."""
        repository, _, tag = self.site.operator_image.rpartition(":")
        merged = {
            "image": {"repository": repository, "tag": tag},
            "crds": {"install": False},
            "namespaces": [self.cluster.namespace],
            "progressIntervalSeconds": PROGRESS_SECONDS,
            **values,
        }
        target = ["--namespace", self.cluster.namespace, "--wait", "--timeout", "3m", "--values", "-"]
        try:
            self.cluster.run_helm(
                "upgrade", "--install", RELEASE, str(CHART), *target, stdin=json.dumps(merged).encode()
            )
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.cluster.tell(OPERATOR_PODS)}") from error

    def scale_operator(self, replicas: int) -> None:
        """Start or stop operator pods; with 0 it returns when none is left."""
        self.cluster.run("scale", "deployment", RELEASE, f"--replicas={replicas}")
        if replicas == 0:
            self.cluster.wait("no operator pod", lambda: not self.cluster.objects("pods", OPERATOR_PODS), 60)
        else:
            self.cluster.run("rollout", "status", f"deployment/{RELEASE}", "--timeout=120s")

    def submit(self, name: str, spec: Mapping[str, Any]) -> None:
        """Create an RLHFJob."""
        self.cluster.apply(
            [{"apiVersion": "rlhf.dev/v1alpha1", "kind": "RLHFJob", "metadata": {"name": name}, "spec": dict(spec)}]
        )

    def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """Change fields of an RLHFJob's spec."""
        self.cluster.run("patch", "rlhfjob", name, "--type=merge", "-p", json.dumps({"spec": dict(spec)}))

    def job(self, name: str) -> Object:
        """The RLHFJob as it is now."""
        found = self.cluster.get("rlhfjob", name)
        if found is None:
            raise ClusterError(f"RLHFJob {name} does not exist")
        return found

    def until(self, name: str, what: str, probe: Probe, seconds: float) -> Object:
        """Poll an RLHFJob until `probe` holds; fails at once when the job ends without it. Returns the job."""
        last: Object = {}

        def look() -> bool:
            nonlocal last
            last = self.job(name)
            if probe(last):
                return True
            if any(is_true(last, end) for end in END):
                raise ClusterError(f"{what}: the job ended without it\n{self.tell(name)}")
            return False

        self.cluster.wait(f"{name}: {what}", look, seconds, lambda: self.tell(name), interval_seconds=0.5)
        return last

    def complete(self, name: str, seconds: float = 600) -> Object:
        """Wait for Complete."""
        return self.until(name, "Complete", lambda job: is_true(job, "Complete"), seconds)

    def failed(self, name: str, seconds: float = 600) -> Mapping[str, Any]:
        """Wait for Failed; returns that condition."""
        job = self.until(name, "Failed", lambda job: is_true(job, "Failed"), seconds)
        found = condition(job, "Failed")
        assert found is not None
        return found

    def checkpoint(self, name: str, step: int, seconds: float = 480) -> Object:
        """Wait until a checkpoint of that step or a later one is complete, as status knows."""
        return self.until(name, f"a checkpoint of step {step}", lambda job: checkpoint_step(job) >= step, seconds)

    def pods(self, name: str, role: str = "train", attempt: int | None = None) -> list[Object]:
        """Pods of a job, by role and attempt, sorted by name."""
        selector = f"rlhf.dev/job={name},rlhf.dev/role={role}" + (f",rlhf.dev/attempt={attempt}" if attempt else "")
        return sorted(self.cluster.objects("pods", selector), key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, name: str, index: int, attempt: int = 1) -> str:
        """The name of an attempt's running pod, by its completion index."""
        for pod in self.pods(name, attempt=attempt):
            if pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index") == str(index):
                return str(pod["metadata"]["name"])
        raise ClusterError(f"attempt {attempt} of {name} has no pod of index {index}\n{self.tell(name)}")

    def jobs(self, name: str) -> list[Object]:
        """The batch Jobs of an RLHFJob."""
        return self.cluster.objects("jobs.batch", f"rlhf.dev/job={name}")

    def log_events(self, name: str, event: str, attempt: int) -> list[dict[str, Any]]:
        """The JSON lines of one kind that rank 0's pod of an attempt has printed."""
        text = self.cluster.run("logs", self.pod(name, 0, attempt), "-c", "trainer").decode(errors="replace")
        lines = [line[line.find('{"time"') :] for line in text.splitlines() if '{"time"' in line]
        found = []
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("event") == event:
                found.append(entry)
        return found

    def workspace(self, name: str) -> str:
        """The job's folder on the claim."""
        digest = str(self.job(name)["status"]["planDigest"]).removeprefix("sha256:")
        return f"{name}-{digest[:12]}"

    def result(self, name: str) -> Result:
        """result.json of the job's workspace."""
        return Result.model_validate_json(self.files.read(f"{self.workspace(name)}/result.json"))

    def owner_of_workspace(self, name: str) -> int:
        """The attempt that has claimed the workspace."""
        return int(self.files.read(f"{self.workspace(name)}/ATTEMPT"))

    def files_of(self, name: str, folder: str) -> dict[str, str]:
        """Relative path → SHA-256 of every file below a folder of the workspace."""
        root = f"{MOUNT}/{self.workspace(name)}/{folder}"
        text = self.cluster.run("exec", FILES_POD, "--", "python3", "-c", _DIGESTS.format(root))
        found: dict[str, str] = json.loads(text)
        return found

    def named_pod(self, name: str) -> Object:
        """A pod by its name."""
        found = self.cluster.get("pod", name)
        if found is None:
            raise ClusterError(f"pod {name} does not exist")
        return found

    def events(self, name: str) -> list[Object]:
        """Kubernetes events about the RLHFJob."""
        items = json.loads(self.cluster.run("get", "events.events.k8s.io", "-o", "json"))["items"]
        return [item for item in items if item.get("regarding", {}).get("name") == name]

    def tell(self, name: str) -> str:
        """Everything that a person would look at: status, events, pods with their logs, the operator's last lines."""
        asked = (("get", "rlhfjob", name, "-o", "jsonpath={.status}"), ("get", "jobs,pods", "-o", "wide"), ("events",))
        parts = [self._try(*arguments)[-6000:] for arguments in asked]
        parts.append(self.cluster.tell(f"rlhf.dev/job={name}"))
        parts.append(self._try("logs", "-l", OPERATOR_PODS, "--tail=15")[-4000:])
        return "\n---\n".join(parts)

    def _try(self, *arguments: str) -> str:
        try:
            return self.cluster.run(*arguments).decode(errors="replace")
        except ClusterError as error:
            return str(error)


def open_space(site: Site, namespace: str, **operator_values: Any) -> Space:
    """Make a namespace with a claim, its files, and an operator that serves it alone."""
    cluster = site.cluster(namespace)
    remove_namespace(cluster, wait=True)
    cluster.ensure_namespace()
    cluster.apply([claim()])
    space = Space(site, cluster, Loader(cluster, CLAIM, site.operator_image, FILES_POD))
    space.files.__enter__()
    space.files.upload(site.files, "input")
    space.install(**operator_values)
    return space


def remove_namespace(cluster: Cluster, *, wait: bool) -> None:
    """Delete the namespace and all in it. Pods are told to end at once: nothing of theirs is needed any more."""
    outside = replace(cluster, namespace="default")
    if outside.get("namespace", cluster.namespace) is None:
        return
    cluster.run("delete", "rlhfjobs,jobs", "--all", "--wait=false")
    cluster.run("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    outside.run("delete", "namespace", cluster.namespace, f"--wait={str(wait).lower()}", timeout_seconds=180)


def claim(name: str = CLAIM) -> Object:
    """A volume for a test's files and workspaces, writable from every worker."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def checkpoint_step(job: Mapping[str, Any]) -> int:
    """The newest complete checkpoint that status knows, 0 for none."""
    return int(((job.get("status") or {}).get("checkpoint") or {}).get("step") or 0)


def step_of(job: Mapping[str, Any]) -> int:
    """The step that status shows."""
    return int(((job.get("status") or {}).get("progress") or {}).get("step") or 0)


def attempts_of(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The attempts that status records, oldest first."""
    return list((job.get("status") or {}).get("attempts") or [])


def classes_of(job: Mapping[str, Any]) -> list[str | None]:
    """How each attempt ended; None for one that runs."""
    return [attempt.get("class") for attempt in attempts_of(job)]


def phase_of(job: Mapping[str, Any]) -> str:
    """The summary for people."""
    return str((job.get("status") or {}).get("phase") or "")


def exit_code_of(pod: Mapping[str, Any]) -> int | None:
    """The exit code of the container `trainer`."""
    statuses: Sequence[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    for status in statuses:
        if status.get("name") == "trainer":
            ended = (status.get("state") or {}).get("terminated")
            return int(ended["exitCode"]) if ended else None
    return None
