"""Parts of a plan that every kind resolves alike: inputs as the pod finds them, processes, output. Pure."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_operator.api import plan as api
from rlhf_operator.api.data import ConfigMapSource, DataRef, Dataset
from rlhf_operator.api.graders import Grader
from rlhf_operator.api.lifecycle import Checkpoints, Timeouts
from rlhf_operator.api.pods import Compute, Output, Precision
from rlhf_operator.common.hashes import sha256_of

from .addresses import token_path
from .views import References

Contents = Callable[[ConfigMapSource], str | None]
"""The digest of what a ConfigMap's key holds."""


def contents_of(found: References) -> Contents:
    """Return the digests of what was looked up."""
    return lambda ref: sha256_of(found.config_maps[ref.name][ref.key])


def workspace(job: str, plan_digest: str) -> str:
    """Return the workspace's path inside a pod."""
    return f"{api.STORAGE_PATH}/{api.workspace_name(job, plan_digest)}"


def place(ref: DataRef) -> tuple[str, str]:
    """Return (path in the pod, reference for people). Raises ValueError for what is not mounted."""
    if ref.pvc is not None:
        inside = f"/{ref.pvc.path}" if ref.pvc.path else ""
        return f"{api.CLAIMS_PATH}/{ref.pvc.claim_name}{inside}", f"pvc://{ref.pvc.claim_name}{inside}"
    if ref.config_map is not None:
        inside = f"{ref.config_map.name}/{ref.config_map.key}"
        return f"{api.CONFIG_MAPS_PATH}/{inside}", f"configmap://{inside}"
    raise ValueError("only pvc and configMap sources can be resolved")


def source(ref: DataRef, contents: Contents) -> api.PlanSource:
    """Return an input as the pod finds it."""
    path, readable = place(ref)
    return api.PlanSource(path=path, ref=readable, digest=_digest(ref, contents))


def dataset(name: str, data: Dataset, contents: Contents) -> api.PlanDataset:
    """Return a data set as the pod finds it."""
    path, readable = place(data)
    return api.PlanDataset(
        name=name,
        path=path,
        ref=readable,
        digest=_digest(data, contents),
        format=data.format,
        columns=data.columns,
        provenance=data.provenance,
    )


def scorer(name: str, grader: Grader, contents: Contents) -> api.PlanScorer:
    """Return a grader as the pod finds it."""
    code = grader.python.config_map if grader.python is not None else None
    if code is None:
        return api.PlanScorer(name=name, grader=grader, token_path=token_path(grader))
    return api.PlanScorer(
        name=name,
        grader=grader,
        grader_path=f"{api.CONFIG_MAPS_PATH}/{code.name}/{code.key}",
        grader_digest=contents(code),
    )


def compute(wanted: Compute) -> api.PlanCompute:
    """Return the processes of an attempt."""
    return api.PlanCompute(
        workers=wanted.workers,
        procs_per_worker=max(1, wanted.gpus_per_worker),
        gpus_per_worker=wanted.gpus_per_worker,
        zero_stage=wanted.zero_stage,
        offload=wanted.offload,
        precision=wanted.precision or (Precision.BF16 if wanted.gpus_per_worker else Precision.FP32),
        gradient_checkpointing=wanted.gradient_checkpointing,
        attention=wanted.attention,
        deterministic=wanted.deterministic,
    )


def checkpoints(wanted: Checkpoints) -> api.PlanCheckpoints:
    """Return when the run is saved."""
    return api.PlanCheckpoints(
        every_steps=wanted.every_steps, keep=wanted.keep, grace_period_seconds=wanted.grace_period.seconds
    )


def timeouts(wanted: Timeouts) -> api.PlanTimeouts:
    """Return how long silence is tolerated."""
    return api.PlanTimeouts(startup_seconds=wanted.startup.seconds, progress_seconds=wanted.progress.seconds)


def output(owner: str, wanted: Output, claim: str, folder: str) -> api.PlanOutput:
    """Return where the artifact goes: by default `folder`/<owner's name>."""
    return api.PlanOutput(
        claim=claim,
        path=(wanted.pvc.path if wanted.pvc is not None else "") or f"{folder}/{owner}",
        alias=wanted.alias,
        sign=wanted.signing is not None,
    )


def _digest(ref: DataRef, contents: Contents) -> str | None:
    """Return the digest given, else that of a ConfigMap's content: it may change between attempts and must not."""
    if ref.digest is not None or ref.config_map is None:
        return ref.digest
    return contents(ref.config_map)
