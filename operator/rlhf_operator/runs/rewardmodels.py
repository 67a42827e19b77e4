"""A RewardModel as others use it: which version a reference means, and why none can be used yet. Pure."""

from __future__ import annotations

from rlhf_operator.api.graders import RewardModelRef
from rlhf_operator.api.plan import CLAIMS_PATH
from rlhf_operator.api.rewardmodel import RewardModelVersion

from .views import RewardModelView

FAILED = "Failed"


def version_of(ref: RewardModelRef, view: RewardModelView) -> RewardModelVersion | None:
    """Return the version that a reference means: the one it names, else the one in use."""
    wanted = ref.version or view.current
    return next((each for each in view.versions if each.digest == wanted), None)


def why_not(ref: RewardModelRef, view: RewardModelView | None) -> str | None:
    """Return why a RewardModel can't be used, with the way out."""
    if view is None:
        return f"RewardModel {ref.name} does not exist"
    version = version_of(ref, view)
    if version is None:
        return _no_version(ref, view)
    if version.gate == FAILED or version.gate is None:
        return f"version {version.digest} of RewardModel {ref.name} failed its gate ({version.message or 'no words'})"
    if view.serves and version.url is None:
        return f"no pod of RewardModel {ref.name} answers for version {version.digest} yet: {view.message}"
    if not view.serves and path_of(version) is None:
        return f"version {version.digest} of RewardModel {ref.name} lies at {version.ref}, which no pod can mount"
    return None


def _no_version(ref: RewardModelRef, view: RewardModelView) -> str:
    if ref.version is not None:
        held = ", ".join(each.digest for each in view.versions) or "none"
        return f"RewardModel {ref.name} holds no version {ref.version} (it holds {held})"
    newest = view.versions[0] if view.versions else None
    if newest is not None and newest.gate == FAILED:
        return f"RewardModel {ref.name} failed its gate ({newest.message or 'no words'}), and no version has passed"
    return f"RewardModel {ref.name} has no version that passed its gate yet: {view.message or 'it has no status'}"


def path_of(version: RewardModelVersion) -> str | None:
    """Return where a pod finds a version's files."""
    kind, _, place = (version.ref or "").partition("://")
    return f"{CLAIMS_PATH}/{place}" if kind == "pvc" and place else None
