"""Parts of a plan that every kind resolves alike: inputs as the pod finds them, processes, output. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from rlhf_operator.api import plan as api
from rlhf_operator.api.data import ConfigMapSource, DataRef, Dataset
from rlhf_operator.api.graders import Grader
from rlhf_operator.api.lifecycle import Checkpoints, Timeouts
from rlhf_operator.api.plan import SourceContent
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


PlanT = TypeVar("PlanT", bound=api.RunPlan)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What inputs are resolved with."""

    contents: Contents
    folder: str = ""
    """Where this plan's fetched inputs go."""


def placed(owner: str, make: Callable[[str], PlanT]) -> PlanT:
    """Return the plan whose fetched inputs lie in a folder of its own, so that each plan resolves a branch anew.

    make: the plan by the folder. The folder is named after the plan without it: a digest can't name itself.
    """
    plan = make("")
    if all(each.fetch is None for _, each in plan.inputs()):
        return plan
    return make(f"{api.SOURCES_PATH}/{api.workspace_name(owner, plan.digest())}")


def folder_of(plan: api.RunPlan) -> str:
    """Return the folder of a plan's fetched inputs, empty when there are none."""
    paths = (PurePosixPath(each.path) for _, each in plan.inputs() if each.fetch is not None)
    return next((str(path.parent.parent) for path in paths), "")


def source(ref: DataRef, inputs: Inputs, content: SourceContent = SourceContent.MODEL) -> api.PlanSource:
    """Return an input as the pod finds it."""
    if ref.pvc is not None:
        inside = f"/{ref.pvc.path}" if ref.pvc.path else ""
        readable = f"pvc://{ref.pvc.claim_name}{inside}"
        return api.PlanSource(path=f"{api.CLAIMS_PATH}/{ref.pvc.claim_name}{inside}", ref=readable, digest=ref.digest)
    if ref.config_map is not None:
        inside = f"{ref.config_map.name}/{ref.config_map.key}"
        # What a ConfigMap holds may change between attempts and must not.
        digest = ref.digest or inputs.contents(ref.config_map)
        return api.PlanSource(path=f"{api.CONFIG_MAPS_PATH}/{inside}", ref=f"configmap://{inside}", digest=digest)
    fetch = api.PlanFetch(
        content=content,
        hf=ref.hf,
        s3=ref.s3,
        credentials=f"{api.CREDENTIALS_PATH}/{ref.secret_ref.name}" if ref.secret_ref is not None else None,
    )
    # The same source under two fields is fetched once.
    key = hashlib.sha256(f"{fetch.model_dump_json(exclude_none=True)} {ref.digest}".encode()).hexdigest()[:12]
    return api.PlanSource(
        path=f"{inputs.folder}/{key}/{api.FETCHED}", ref=_remote_name(ref, content), digest=ref.digest, fetch=fetch
    )


def _remote_name(ref: DataRef, content: SourceContent) -> str:
    if ref.s3 is not None:
        return ref.s3.uri
    assert ref.hf is not None
    kind = "datasets/" if content is SourceContent.DATA else ""
    inside = f"/{ref.hf.path}" if ref.hf.path else ""
    return f"hf://{kind}{ref.hf.repo}@{ref.hf.revision}{inside}"


def dataset(name: str, data: Dataset, inputs: Inputs) -> api.PlanDataset:
    """Return a data set as the pod finds it."""
    found = source(data, inputs, SourceContent.DATA)
    return api.PlanDataset(
        name=name,
        path=found.path,
        ref=found.ref,
        digest=found.digest,
        fetch=found.fetch,
        format=data.format,
        columns=data.columns,
        provenance=data.provenance,
    )


def scorer(name: str, grader: Grader, inputs: Inputs) -> api.PlanScorer:
    """Return a grader as the pod finds it."""
    code = grader.python.config_map if grader.python is not None else None
    if code is None:
        return api.PlanScorer(name=name, grader=grader, token_path=token_path(grader))
    return api.PlanScorer(
        name=name,
        grader=grader,
        grader_path=f"{api.CONFIG_MAPS_PATH}/{code.name}/{code.key}",
        grader_digest=inputs.contents(code),
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
        s3=wanted.s3,
        credentials=f"{api.CREDENTIALS_PATH}/{wanted.secret_ref.name}" if wanted.secret_ref is not None else None,
    )
