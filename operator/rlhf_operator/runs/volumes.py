"""What the pods of a job mount, and where: claims, ConfigMaps, the plan, the live settings, the signing key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_operator.api import plan as api
from rlhf_operator.common.podsecurity import scratch_mounts, scratch_volumes

from .references import credentials, input_claims, input_config_maps, input_secrets, token_secrets
from .spec import RunSpec
from .storage import output_claim, storage_claim


@dataclass(frozen=True, slots=True)
class Mounts:
    """Volumes of a pod, and the mounts of our container."""

    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]

    def __add__(self, other: Mounts) -> Mounts:
        return Mounts(self.volumes + other.volumes, self.mounts + other.mounts)


def base_mounts(plan_config_map: str) -> Mounts:
    """Return scratch space and the plan: what every role has."""
    return Mounts(
        [*scratch_volumes(), {"name": "plan", "configMap": {"name": plan_config_map}}],
        [*scratch_mounts(), {"name": "plan", "mountPath": api.PLAN_PATH, "readOnly": True}],
    )


def storage_mounts(job: str, spec: RunSpec, *, read_only: bool = False) -> Mounts:
    """Return the storage claim, writable unless said otherwise."""
    mount: dict[str, Any] = {"name": "storage", "mountPath": api.STORAGE_PATH}
    if read_only:
        mount["readOnly"] = True
    return Mounts([_claim("storage", storage_claim(job, spec))], [mount])


def input_mounts(job: str, spec: RunSpec, plan: api.RunPlan) -> Mounts:
    """Return the data that a training pod reads: claims and ConfigMaps, read-only."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for index, claim in enumerate(sorted({*input_claims(spec), *plan.scorer_claims})):
        # A claim is one volume in a pod, mounted twice when it is also the storage.
        name = "storage" if claim == storage_claim(job, spec) else f"claim-{index}"
        if name != "storage":
            volumes.append(_claim(name, claim))
        mounts.append({"name": name, "mountPath": f"{api.CLAIMS_PATH}/{claim}", "readOnly": True})
    for index, (config_map, keys) in enumerate(input_config_maps(spec).items()):
        items = [{"key": key, "path": key} for key in keys]
        volumes.append({"name": f"configmap-{index}", "configMap": {"name": config_map, "items": items}})
        path = f"{api.CONFIG_MAPS_PATH}/{config_map}"
        mounts.append({"name": f"configmap-{index}", "mountPath": path, "readOnly": True})
    return Mounts(volumes, mounts) + _credentials(input_secrets(spec))


def token_mounts(spec: RunSpec) -> Mounts:
    """Return the tokens of graders behind an address: directories, so that a token that is renewed reaches the pod."""
    volumes, mounts = [], []
    for index, name in enumerate(token_secrets(spec)):
        items = [{"key": api.TOKEN_FILE, "path": api.TOKEN_FILE}]
        secret = {"secretName": name, "items": items, "defaultMode": 0o440}
        volumes.append({"name": f"token-{index}", "secret": secret})
        mounts.append({"name": f"token-{index}", "mountPath": f"{api.TOKENS_PATH}/{name}", "readOnly": True})
    return Mounts(volumes, mounts)


def settings_mounts(config_map: str) -> Mounts:
    """Return the live settings: a directory, not a subPath, for only so do changes reach a running pod."""
    return Mounts(
        [{"name": "settings", "configMap": {"name": config_map}}],
        [{"name": "settings", "mountPath": api.SETTINGS_PATH, "readOnly": True}],
    )


def output_mounts(job: str, spec: RunSpec) -> Mounts:
    """Return what the publish pod has beside the base: the workspace, the place of the artifact, and the key."""
    same = output_claim(job, spec) == storage_claim(job, spec)
    result = storage_mounts(job, spec, read_only=not same)
    volume = "storage" if same else "output"
    result += Mounts(
        [] if same else [_claim("output", output_claim(job, spec))],
        [{"name": volume, "mountPath": api.OUTPUT_PATH}],
    )
    result += _credentials(credentials(spec.output))
    signing = spec.output.signing
    if signing is not None:
        items = [{"key": signing.key, "path": signing.key}]
        # Group-readable: the file belongs to root, the process to fsGroup.
        secret = {"secretName": signing.secret_ref.name, "items": items, "defaultMode": 0o440}
        result += Mounts(
            [{"name": "signing-key", "secret": secret}],
            [{"name": "signing-key", "mountPath": api.SIGNING_KEY_PATH, "readOnly": True}],
        )
    return result


def _credentials(secrets: Mapping[str, tuple[str, ...]]) -> Mounts:
    """Files rather than variables, which every child process would inherit."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for index, (secret, keys) in enumerate(secrets.items()):
        # Optional, for a session token seldom is there; what else is missing the trainer names.
        items = [{"key": key, "path": key} for key in keys]
        source = {"secretName": secret, "items": items, "defaultMode": 0o440, "optional": True}
        volumes.append({"name": f"credentials-{index}", "secret": source})
        path = f"{api.CREDENTIALS_PATH}/{secret}"
        mounts.append({"name": f"credentials-{index}", "mountPath": path, "readOnly": True})
    return Mounts(volumes, mounts)


def _claim(name: str, claim: str) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}
