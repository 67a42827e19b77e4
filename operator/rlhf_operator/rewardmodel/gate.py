"""The limits that a version is held against, from the spec: their name, and their words for status. Pure."""

from __future__ import annotations

from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.rewardmodel import RewardModelSpec
from rlhf_operator.common.hashes import sha256_of

_NAME_DIGITS = 8


def gate_of(spec: RewardModelSpec) -> RewardGate:
    """Return the limits of a spec; without an evaluation block there are none."""
    wanted = spec.evaluation
    if wanted is None:
        return RewardGate()
    return RewardGate(
        min_accuracy=wanted.min_accuracy,
        min_lower_bound=wanted.min_lower_bound,
        max_calibration_error=wanted.max_calibration_error,
        max_length_bias=wanted.max_length_bias,
        must_prefer=wanted.must_prefer is not None,
        slice_min_accuracy=wanted.slices.min_accuracy if wanted.slices is not None else None,
        slice_min_samples=wanted.slices.min_samples if wanted.slices is not None else 30,
    )


def limits_of(spec: RewardModelSpec) -> dict[str, float]:
    """Return everything that decides a verdict, as status records it: other limits, and the version is judged again."""
    gate = gate_of(spec)
    slices = {"slices.minSamples": float(gate.slice_min_samples)} if gate.slice_min_accuracy is not None else {}
    return gate.limits | slices


def gate_name(spec: RewardModelSpec) -> str:
    """Return a short name of the limits, for the publish Job that judges by them."""
    text = gate_of(spec).model_dump_json(by_alias=True, exclude_none=True)
    return sha256_of(text.encode()).removeprefix("sha256:")[:_NAME_DIGITS]
