"""What a spec refers to by name, and whether it can be used. Reading it is observe.py's part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_operator.api.data import ConfigMapSource, DataRef
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.reasons import Reason

from .checks import Check, failed, passed, unknown
from .views import References


@dataclass(frozen=True, slots=True)
class Wanted:
    """Names to look up. A key of None means that any will do."""

    claims: tuple[str, ...]
    config_maps: tuple[tuple[str, str], ...]
    """(ConfigMap, key)"""
    secrets: tuple[tuple[str, str], ...]
    """(Secret, key)"""
    reward_models: tuple[str, ...]


def data_refs(spec: RLHFJobSpec) -> Iterator[tuple[str, DataRef]]:
    """Yield (field, reference) of every input of the trainer."""
    yield "baseModel", spec.base_model
    yield "dataset", spec.dataset
    if spec.parent_artifact is not None:
        yield "parentArtifact", spec.parent_artifact
    if spec.warm_start is not None:
        yield "warmStart.dataset", spec.warm_start.dataset
    if spec.evaluation is not None:
        yield "evaluation.dataset", spec.evaluation.dataset


def grader_files(spec: RLHFJobSpec) -> Iterator[tuple[str, ConfigMapSource]]:
    """Yield (scorer, source) of every Python grader whose code is in a ConfigMap."""
    for scorer in spec.scorers:
        grader = scorer.grader
        if grader is not None and grader.python is not None and grader.python.config_map is not None:
            yield scorer.name, grader.python.config_map


def input_claims(spec: RLHFJobSpec) -> tuple[str, ...]:
    """Return the claims that the trainer reads, sorted."""
    return tuple(sorted({ref.pvc.claim_name for _, ref in data_refs(spec) if ref.pvc is not None}))


def input_config_maps(spec: RLHFJobSpec) -> dict[str, tuple[str, ...]]:
    """Return the ConfigMaps that the trainer reads, with the keys it needs, sorted."""
    keys: dict[str, set[str]] = {}
    for _, ref in data_refs(spec):
        if ref.config_map is not None:
            keys.setdefault(ref.config_map.name, set()).add(ref.config_map.key)
    for _, source in grader_files(spec):
        keys.setdefault(source.name, set()).add(source.key)
    return {name: tuple(sorted(keys[name])) for name in sorted(keys)}


def wanted(spec: RLHFJobSpec) -> Wanted:
    """Return everything that must exist before an attempt starts."""
    claims = set(input_claims(spec))
    if spec.storage.claim_name is not None:
        claims.add(spec.storage.claim_name)
    if spec.output.pvc is not None:
        claims.add(spec.output.pvc.claim_name)
    config_maps = {(name, key) for name, keys in input_config_maps(spec).items() for key in keys}
    secrets: set[tuple[str, str]] = set()
    if spec.output.signing is not None:
        secrets.add((spec.output.signing.secret_ref.name, spec.output.signing.key))
    for variable in spec.compute.env:
        source = variable.value_from
        if source is None:
            continue
        if source.secret_key_ref is not None and not source.secret_key_ref.optional:
            secrets.add((source.secret_key_ref.name, source.secret_key_ref.key))
        if source.config_map_key_ref is not None and not source.config_map_key_ref.optional:
            config_maps.add((source.config_map_key_ref.name, source.config_map_key_ref.key))
    models = {scorer.reward_model_ref.name for scorer in spec.scorers if scorer.reward_model_ref is not None}
    return Wanted(tuple(sorted(claims)), tuple(sorted(config_maps)), tuple(sorted(secrets)), tuple(sorted(models)))


def check_references(spec: RLHFJobSpec, found: References) -> Check:
    """Return whether everything named is there; the message names all that is not, the reason is the first's."""
    if found.unread:
        words = "; ".join(f"{what}: {why}" for what, why in sorted(found.unread.items()))
        return unknown(Reason.READ_FAILED, f"could not be read, will be tried again: {words}")
    problems = [*_missing(spec, found), *_wrong_content(spec, found), *_reward_models(spec)]
    if not problems:
        words = "everything that the spec refers to is there"
        if found.unchecked:
            words += f"; not checked, for the operator may not read Secrets: {', '.join(sorted(found.unchecked))}"
        return passed(Reason.RESOLVED, words)
    return failed(problems[0][0], "; ".join(message for _, message in problems) + "; training waits for it")


def _missing(spec: RLHFJobSpec, found: References) -> Iterator[tuple[Reason, str]]:
    names = wanted(spec)
    for claim in names.claims:
        # The storage claim has a condition of its own, but what is missing is missing.
        if claim not in found.claims:
            yield Reason.CLAIM_NOT_FOUND, f"PersistentVolumeClaim {claim} does not exist"
    for name, key in names.config_maps:
        if name not in found.config_maps:
            yield Reason.CONFIG_MAP_NOT_FOUND, f"ConfigMap {name} does not exist"
        elif key not in found.config_maps[name]:
            yield Reason.KEY_NOT_FOUND, f"ConfigMap {name} has no key {key}"
    for name, key in names.secrets:
        if name in found.unchecked:
            continue
        if name not in found.secrets:
            yield Reason.SECRET_NOT_FOUND, f"Secret {name} does not exist"
        elif key not in found.secrets[name]:
            yield Reason.KEY_NOT_FOUND, f"Secret {name} has no key {key}"


def _wrong_content(spec: RLHFJobSpec, found: References) -> Iterator[tuple[Reason, str]]:
    for field, ref in data_refs(spec):
        source = ref.config_map
        content = found.config_maps.get(source.name, {}).get(source.key) if source is not None else None
        if source is None or content is None or ref.digest is None:
            continue
        if sha256_of(content) != ref.digest:
            yield (
                Reason.DIGEST_MISMATCH,
                f"{field}: ConfigMap {source.name} key {source.key} is {sha256_of(content)}, not {ref.digest}",
            )


def _reward_models(spec: RLHFJobSpec) -> Iterator[tuple[Reason, str]]:
    for name in wanted(spec).reward_models:
        yield Reason.REWARD_MODEL_NOT_READY, f"RewardModel {name} has no version that passed its gate"
