"""What a spec refers to by name, and whether it can be used. Reading it is observe.py's part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_operator.api.data import SESSION_TOKEN_KEY, STORE_KEYS, TOKEN_KEY, DataRef
from rlhf_operator.api.plan import TOKEN_FILE
from rlhf_operator.api.pods import Output
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.hosts import why_not_allowed
from rlhf_operator.common.reasons import Reason

from .addresses import address_of, secret_of
from .checks import Check, failed, passed, unknown
from .spec import Problem, RunSpec
from .views import References


@dataclass(frozen=True, slots=True)
class Wanted:
    """Names to look up. A key of None means that any will do."""

    claims: tuple[str, ...]
    config_maps: tuple[tuple[str, str], ...]
    """(ConfigMap, key)"""
    secrets: tuple[tuple[str, str], ...]
    """(Secret, key)"""
    reward_models: tuple[str, ...] = ()


def input_claims(spec: RunSpec) -> tuple[str, ...]:
    """Return the claims that the trainer reads, sorted."""
    return tuple(sorted({ref.pvc.claim_name for _, ref in spec.inputs if ref.pvc is not None}))


def input_config_maps(spec: RunSpec) -> dict[str, tuple[str, ...]]:
    """Return the ConfigMaps that the trainer reads, with the keys it needs, sorted."""
    keys: dict[str, set[str]] = {}
    for _, ref in spec.inputs:
        if ref.config_map is not None:
            keys.setdefault(ref.config_map.name, set()).add(ref.config_map.key)
    for _, source in spec.code:
        keys.setdefault(source.name, set()).add(source.key)
    return {name: tuple(sorted(keys[name])) for name in sorted(keys)}


def token_secrets(spec: RunSpec) -> tuple[str, ...]:
    """Return the Secrets with tokens of graders behind an address, sorted."""
    return tuple(sorted({name for _, grader in spec.graders if (name := secret_of(grader)) is not None}))


def credentials(ref: DataRef | Output) -> dict[str, tuple[str, ...]]:
    """Return the keys of the Secret of a source or an output that pods mount, by its name; nothing else is mounted."""
    if ref.secret_ref is None:
        return {}
    return {ref.secret_ref.name: STORE_KEYS if ref.s3 is not None else (TOKEN_KEY,)}


def input_secrets(spec: RunSpec) -> dict[str, tuple[str, ...]]:
    """Return the Secrets that the trainer fetches inputs with, and their keys, sorted."""
    keys: dict[str, set[str]] = {}
    for _, ref in spec.inputs:
        for name, needed in credentials(ref).items():
            keys.setdefault(name, set()).update(needed)
    return {name: tuple(sorted(keys[name])) for name in sorted(keys)}


def wanted(spec: RunSpec) -> Wanted:
    """Return everything that must exist before an attempt starts."""
    claims = set(input_claims(spec))
    if spec.storage.claim_name is not None:
        claims.add(spec.storage.claim_name)
    if spec.output.pvc is not None:
        claims.add(spec.output.pvc.claim_name)
    config_maps = {(name, key) for name, keys in input_config_maps(spec).items() for key in keys}
    secrets = {*spec.secrets, *((name, TOKEN_FILE) for name in token_secrets(spec))}
    for needed in (input_secrets(spec), credentials(spec.output)):
        secrets |= {(name, key) for name, keys in needed.items() for key in keys if key != SESSION_TOKEN_KEY}
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
    return Wanted(tuple(sorted(claims)), tuple(sorted(config_maps)), tuple(sorted(secrets)), spec.reward_models)


def check_references(spec: RunSpec, found: References, allowed_hosts: Sequence[str], *, frozen: bool) -> Check:
    """Return whether everything named is there; the message names all that is not, the reason is the first's.

    allowed_hosts: hosts outside the cluster that texts may go to.
    frozen: the plan is made, and what it chose (a RewardModel's version) is not chosen again.
    """
    if found.unread:
        words = "; ".join(f"{what}: {why}" for what, why in sorted(found.unread.items()))
        return unknown(Reason.READ_FAILED, f"could not be read, will be tried again: {words}")
    problems = [*_missing(spec, found), *_wrong_content(spec, found), *_not_allowed(spec, allowed_hosts)]
    problems += () if frozen else spec.problems(found)
    if not problems:
        words = "everything that the spec refers to is there"
        if found.unchecked:
            words += f"; not checked, for the operator may not read Secrets: {', '.join(sorted(found.unchecked))}"
        return passed(Reason.RESOLVED, words)
    return failed(problems[0][0], "; ".join(message for _, message in problems) + "; training waits for it")


def _missing(spec: RunSpec, found: References) -> Iterator[Problem]:
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


def _not_allowed(spec: RunSpec, allowed_hosts: Sequence[str]) -> Iterator[Problem]:
    for field, grader in spec.graders:
        address = address_of(grader)
        refused = why_not_allowed(address[1], allowed_hosts) if address is not None else None
        if address is not None and refused is not None:
            yield Reason.HOST_NOT_ALLOWED, f"{field}.{address[0]}: {refused}"


def _wrong_content(spec: RunSpec, found: References) -> Iterator[Problem]:
    for field, ref in spec.inputs:
        source = ref.config_map
        content = found.config_maps.get(source.name, {}).get(source.key) if source is not None else None
        if source is None or content is None or ref.digest is None:
            continue
        if sha256_of(content) != ref.digest:
            yield (
                Reason.DIGEST_MISMATCH,
                f"{field}: ConfigMap {source.name} key {source.key} is {sha256_of(content)}, not {ref.digest}",
            )
