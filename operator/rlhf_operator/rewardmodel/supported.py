"""What this version can run. A spec that asks for more is refused by field before a pod starts."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf_operator.api.data import DataRef
from rlhf_operator.api.rewardmodel import RewardModelSpec
from rlhf_operator.common.reasons import Reason
from rlhf_operator.runs.addresses import address_of, secret_of
from rlhf_operator.runs.checks import Check, failed, passed


def check_supported(spec: RewardModelSpec) -> Check:
    """Return a permanent failure that names every field this version can't run yet."""
    fields = sorted(set(unsupported_fields(spec)))
    if not fields:
        return passed()
    return failed(
        Reason.NOT_SUPPORTED_YET,
        f"this version of the operator can't run {', '.join(fields)} yet: remove it from the spec",
        permanent=True,
    )


def unsupported_fields(spec: RewardModelSpec) -> Iterator[str]:
    """Yield the path of each field that is set and not supported yet."""
    for each in spec.source.graders or ():
        # A version is served, and used by jobs, in pods that know nothing of the Secrets of the spec it was made from.
        address = address_of(each.grader)
        if address is not None and secret_of(each.grader) is not None:
            yield f"source.graders[{each.name}].{address[0].removesuffix('.url')}.secretRef"
    if spec.source.train is not None and spec.source.train.training.epochs is None:
        yield "source.train.training.steps"


def data_refs(spec: RewardModelSpec) -> Iterator[tuple[str, DataRef]]:
    """Yield (field, reference) of every input of the trainer."""
    if spec.source.train is not None:
        yield "source.train.baseModel", spec.source.train.base_model
        yield "source.train.dataset", spec.source.train.dataset
    if spec.source.model is not None:
        yield "source.model", spec.source.model
    if spec.evaluation is not None:
        if spec.evaluation.dataset is not None:
            yield "evaluation.dataset", spec.evaluation.dataset
        if spec.evaluation.must_prefer is not None:
            yield "evaluation.mustPrefer", spec.evaluation.must_prefer
