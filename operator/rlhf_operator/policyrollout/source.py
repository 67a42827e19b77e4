"""Which artifact is wanted: from a job, the newest of several, or the spec itself; and what its gate allows. Pure.

What was resolved once stays in force when its job goes: it is on record with the revision that was made of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rlhf_operator.api.algorithms import LoraOutput
from rlhf_operator.api.base import to_camel
from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.policyrollout import ModelSource
from rlhf_operator.common.conditions import find
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.objects import status_of
from rlhf_operator.common.reasons import Reason

from .views import Source

PASSED, FAILED, NOT_EVALUATED = "Passed", "Failed", "NotEvaluated"
_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The artifact, or why there is none to serve."""

    source: Source | None = None
    reason: str = ""
    message: str = ""


def origin_of(model: ModelSource) -> str:
    """Return where the spec takes artifacts from, as records of revisions have it."""
    if model.rlhf_job_ref is not None:
        return f"job/{model.rlhf_job_ref.name}"
    if model.rlhf_job_selector is not None:
        return f"selector/{json.dumps(model.rlhf_job_selector.match_labels, sort_keys=True)}"
    return "artifact"


def resolve(model: ModelSource, jobs: Iterable[Manifest], recorded: Sequence[Source]) -> Resolved:
    """Return the artifact that the spec asks for.

    jobs: the RLHFJobs of the namespace that the spec names or may select. recorded: artifacts of former resolutions,
    newest last.
    """
    if model.artifact is not None:
        return _named(model)
    if model.rlhf_job_ref is not None:
        return _of_job(model, {job["metadata"]["name"]: job for job in jobs}.get(model.rlhf_job_ref.name), recorded)
    return _newest(model, jobs, recorded)


def _named(model: ModelSource) -> Resolved:
    ref = model.artifact
    if ref is None:
        raise ValueError("model.artifact is not set")
    if ref.pvc is None:
        kind = next(to_camel(name) for name in ref.one_of if getattr(ref, name) is not None)
        words = (
            f"this version of the operator can't serve from model.artifact.{kind} yet: put it on a claim and use pvc"
        )
        return Resolved(reason=Reason.NOT_SUPPORTED_YET, message=words)
    claim, folder = ref.pvc.claim_name, ref.pvc.path.strip("/")
    return Resolved(Source(ref.digest, _ref(claim, folder), claim, folder, origin="artifact"))


def _of_job(model: ModelSource, job: Manifest | None, recorded: Sequence[Source]) -> Resolved:
    origin = origin_of(model)
    name = origin.partition("/")[2]
    if job is not None and _makes_adapter(job):
        return _adapter(name)
    published = _published(job, origin) if job is not None else None
    source = published or next((each for each in reversed(recorded) if each.origin == origin), None)
    if source is not None:
        return _admitted(model, source)
    if job is None:
        words = f"there is no RLHFJob {name} (model.rlhfJobRef): create it, or name another"
        return Resolved(reason=Reason.SOURCE_NOT_FOUND, message=words)
    return _waiting(job)


def _newest(model: ModelSource, jobs: Iterable[Manifest], recorded: Sequence[Source]) -> Resolved:
    origin = origin_of(model)
    wanted = model.rlhf_job_selector.match_labels if model.rlhf_job_selector is not None else {}
    selected = [job for job in jobs if wanted.items() <= (job["metadata"].get("labels") or {}).items()]
    chosen = [job for job in selected if not _makes_adapter(job)]
    # A deleted job's artifact is as new as it was: an older one of a job that is still there does not come back.
    known = [each for each in recorded if each.origin == origin]
    found = sorted([*known, *_all_published(chosen, origin)], key=_age)
    for source in reversed(found):
        admitted = _admitted(model, source)
        if admitted.source is not None:
            return admitted
    if found:
        return _admitted(model, found[-1])
    if chosen:
        return _waiting(max(chosen, key=lambda job: job["metadata"].get("creationTimestamp") or ""))
    if selected:
        return _adapter(selected[-1]["metadata"]["name"])
    words = f"no RLHFJob has the labels {_labels(wanted)} (model.rlhfJobSelector): this waits for one"
    return Resolved(reason=Reason.SOURCE_NOT_FOUND, message=words)


def _all_published(jobs: Iterable[Manifest], origin: str) -> Iterator[Source]:
    for job in jobs:
        source = _published(job, origin)
        if source is not None:
            yield source


def _admitted(model: ModelSource, source: Source) -> Resolved:
    """Hold an artifact's gate against what the spec admits."""
    whose = f"artifact {source.digest} of RLHFJob {source.job}"
    if source.gate == PASSED or (source.gate == NOT_EVALUATED and model.allow_ungated):
        return Resolved(source)
    if source.gate == NOT_EVALUATED:
        words = (
            f"{whose} was not evaluated: add an evaluation block to the job, or set model.allowUngated to serve it "
            "all the same"
        )
        return Resolved(reason=Reason.NOT_EVALUATED, message=words)
    words = f"{whose} failed its gate and is never served; a job whose artifact passes goes on by itself"
    return Resolved(reason=Reason.GATE_FAILED, message=words)


def _published(job: Manifest, origin: str) -> Source | None:
    """Return what a job has published; None when it has not, or not what can be served from a claim."""
    status = status_of(job, RLHFJobStatus)
    artifact = status.artifact
    if artifact is None or not artifact.ref or not artifact.digest:
        return None
    kind, _, rest = artifact.ref.partition("://")
    claim, _, folder = rest.partition("/")
    if kind != "pvc" or not claim:
        return None
    return Source(
        digest=artifact.digest,
        ref=artifact.ref,
        claim=claim,
        folder=folder.strip("/"),
        job=job["metadata"]["name"],
        origin=origin,
        gate=artifact.gate or NOT_EVALUATED,
        completed_at=status.completion_time,
    )


def _makes_adapter(job: Manifest) -> bool:
    """Whether what a job publishes is no model by itself."""
    lora = (job.get("spec") or {}).get("lora")
    return isinstance(lora, dict) and lora.get("output", LoraOutput.ADAPTER) == LoraOutput.ADAPTER


def _adapter(name: str) -> Resolved:
    words = (
        f"RLHFJob {name} publishes a LoRA adapter (lora.output: Adapter), which can't be served without its base "
        "model: train with lora.output: Merged"
    )
    return Resolved(reason=Reason.NOT_SERVABLE, message=words)


def _waiting(job: Manifest) -> Resolved:
    """Say what a job that has published nothing does."""
    name, status = job["metadata"]["name"], status_of(job, RLHFJobStatus)
    failed = find(status.conditions, "Failed")
    if failed is not None and failed.status == "True":
        words = f"RLHFJob {name} failed and has no artifact ({failed.reason}): {failed.message}"
        return Resolved(reason=Reason.SOURCE_FAILED, message=words)
    if status.artifact is not None and status.artifact.gate == FAILED:
        words = f"the artifact of RLHFJob {name} failed its gate and is never served"
        return Resolved(reason=Reason.GATE_FAILED, message=words)
    doing = status.message or status.phase or "has not begun"
    words = f"RLHFJob {name} has published nothing yet; this waits for it ({doing})"
    return Resolved(reason=Reason.SOURCE_NOT_PUBLISHED, message=words)


def _age(source: Source) -> tuple[datetime, str]:
    return source.completed_at or _NEVER, source.digest


def _ref(claim: str, folder: str) -> str:
    return f"pvc://{claim}/{folder}" if folder else f"pvc://{claim}"


def _labels(wanted: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(wanted.items()))
