"""One training run of the demo: files onto the claim, manifests into the cluster, watching, and the artifact back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from demo.cluster import Loader, Object
from demo.install import Place
from demo.voice import Voice
from demo.watch import Line, follow

JOB_TIMEOUT_SECONDS = 1800
BASE = "base"
"""Folder of the base model on the claim."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained and how it is shown."""

    job: str
    """Name of the RLHFJob."""
    claim: str
    artifact: str
    """Folder of the artifact on the claim."""
    manifests: Sequence[Path]
    base: Path
    """Folder of the base model on this machine."""
    reward: str
    """What is optimised, in words."""
    prompts: Sequence[str]
    """Prompts whose answers are shown."""
    max_tokens: int
    """Longest answer that is shown, in tokens."""
    uploads: dict[str, Path] = field(default_factory=dict)
    """More folders for the claim, by their place on it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: the job as the cluster has it, and the artifact's files on this machine."""

    job: Object
    artifact: Path
    first_reward: float | None
    """Reward of the first step that was seen."""


def overlay(run: Run, place: Place, folder: Path) -> Path:
    """A kustomize folder over the run's manifests: it adds what this cluster's pods need to find Python."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in run.manifests:
        shutil.copy(path, folder / path.name)
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [path.name for path in run.manifests],
    }
    if place.template is not None:
        patch = [{"op": "add", "path": "/spec/compute/template", "value": place.template}]
        kustomization["patches"] = [{"target": {"kind": "RLHFJob"}, "patch": json.dumps(patch)}]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization, sort_keys=False), encoding="utf-8")
    return folder


def claim_manifest(manifests: Sequence[Path]) -> Object:
    """The PersistentVolumeClaim among the manifests."""
    for path in manifests:
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document and document["kind"] == "PersistentVolumeClaim":
                return dict(document)
    raise LookupError("no PersistentVolumeClaim among " + ", ".join(path.name for path in manifests))


def play(run: Run, place: Place, build: Path, voice: Voice) -> Outcome:
    """Run it from an empty claim to a published artifact. Raises ClusterError when it does not get there."""
    cluster = place.cluster
    voice.step(f"files onto the claim {run.claim}")
    cluster.delete("rlhfjobs.rlhf.dev", run.job)
    cluster.apply([claim_manifest(run.manifests)])
    with Loader(cluster, run.claim, place.loader_image) as loader:
        # A workspace with a result would end the new job at once, and there would be nothing to see.
        loader.remove(f"{run.job}-*")
        loader.remove(run.artifact)
        for target, folder in {BASE: run.base, **run.uploads}.items():
            loader.upload(folder, target)
            voice.say(f"{target}/ is there")

        folder = overlay(run, place, build / "overlay")
        names = ", ".join(path.name for path in run.manifests)
        voice.step(f"kubectl apply: {names}")
        rendered = cluster.run("kustomize", str(folder))
        cluster.run("apply", "-f", "-", stdin=rendered)
        voice.say(f"the reward: {run.reward}")
        voice.say(f"follow it yourself: kubectl --kubeconfig {cluster.kubeconfig} -n {cluster.namespace} get rlhf -w")

        seen: list[float] = []

        def read(job: Object) -> None:
            reward = ((job.get("status") or {}).get("progress") or {}).get("reward")
            if reward is not None and not seen:
                seen.append(reward)

        voice.step(f"RLHFJob {run.job}")
        job = follow(cluster, run.job, JOB_TIMEOUT_SECONDS, Line(), read)
        artifact = build / "artifact"
        shutil.rmtree(artifact, ignore_errors=True)
        loader.download(_place_of_artifact(job, run), artifact)
    return Outcome(job, artifact, seen[0] if seen else None)


def _place_of_artifact(job: Object, run: Run) -> str:
    """Folder on the claim, from the reference pvc://claim/path in status."""
    ref = str(job["status"].get("artifact", {}).get("ref") or f"pvc://{run.claim}/{run.artifact}")
    return ref.removeprefix(f"pvc://{run.claim}/")
