"""The claim that holds workspaces and artifacts: which one it is, and whether all workers can write to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rlhf_operator.api.pods import AccessMode, Compute, Output, Storage
from rlhf_operator.common.reasons import Reason

from .checks import Check, failed, passed
from .views import ClaimView


class Stored(Protocol):
    """The part of a spec that says where files lie."""

    @property
    def compute(self) -> Compute:
        """The pods that write."""
        ...

    @property
    def storage(self) -> Storage:
        """Where workspaces lie."""
        ...

    @property
    def output(self) -> Output:
        """Where artifacts lie."""
        ...


WRITABLE = frozenset(mode.value for mode in AccessMode)


def storage_claim(job: str, spec: Stored) -> str:
    """Return the name of the storage claim: the user's, or the one made for the job."""
    return spec.storage.claim_name or f"{job}-storage"


def output_claim(job: str, spec: Stored) -> str:
    """Return the name of the claim that the artifact goes to."""
    return spec.output.pvc.claim_name if spec.output.pvc is not None else storage_claim(job, spec)


def access_modes(spec: Stored) -> list[str]:
    """Return the access modes of a claim of our own."""
    if spec.storage.access_modes:
        return [mode.value for mode in spec.storage.access_modes]
    return [(AccessMode.READ_WRITE_MANY if spec.compute.workers > 1 else AccessMode.READ_WRITE_ONCE).value]


def check_storage(job: str, spec: Stored, claims: Mapping[str, ClaimView], own: ClaimView | None) -> Check:
    """Return whether the storage claim and the output claim can take what is written to them."""
    name = storage_claim(job, spec)
    storage = own if spec.storage.claim_name is None else claims.get(name)
    if storage is None:
        if spec.storage.claim_name is None:
            return passed(Reason.STORAGE_READY, f"PersistentVolumeClaim {name} will be made")
        return failed(Reason.CLAIM_NOT_FOUND, f"storage.claimName: PersistentVolumeClaim {name} does not exist")
    problem = _unusable(storage) or _wrong_mode(storage, spec.compute.workers, "storage")
    if problem is not None:
        return problem
    output = output_claim(job, spec)
    if output != name and output in claims:
        problem = _unusable(claims[output]) or _wrong_mode(claims[output], 1, "output.pvc")
        if problem is not None:
            return problem
    return passed(Reason.STORAGE_READY, f"PersistentVolumeClaim {name}, {', '.join(storage.access_modes)}")


def _unusable(claim: ClaimView) -> Check | None:
    if claim.deleting:
        return failed(Reason.CLAIM_TERMINATING, f"PersistentVolumeClaim {claim.name} is being deleted")
    if claim.phase == "Lost":
        return failed(Reason.CLAIM_LOST, f"PersistentVolumeClaim {claim.name} has lost its volume")
    return None


def _wrong_mode(claim: ClaimView, workers: int, field: str) -> Check | None:
    has = ", ".join(claim.access_modes) or "no access mode"
    if not WRITABLE & set(claim.access_modes):
        return failed(Reason.ACCESS_MODE, f"{field}: PersistentVolumeClaim {claim.name} can't be written to ({has})")
    if workers > 1 and AccessMode.READ_WRITE_MANY.value not in claim.access_modes:
        return failed(
            Reason.ACCESS_MODE,
            f"{field}: {workers} workers on several nodes write to PersistentVolumeClaim {claim.name}, which has "
            f"{has}: use a claim with ReadWriteMany, or compute.workers 1",
        )
    return None
