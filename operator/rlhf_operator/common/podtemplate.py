"""A user's pod template merged over ours: strategic by names, and what may not be overridden. Builds no pod itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from .intents import MANAGED_BY_LABEL

MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that Kubernetes merges by a key (patchMergeKey in its API types). Any other list replaces ours."""

APPENDED = frozenset({"tolerations", "envFrom", "preferredDuringSchedulingIgnoredDuringExecution"})
"""Lists without a merge key in which the user's entries join ours, so that neither undoes the other."""

PROTECTED_CONTAINER_FIELDS = ("command", "args", "ports", "restartPolicy", "terminationMessagePath", "workingDir")
PROTECTED_POD_FIELDS = ("restartPolicy", "hostname", "subdomain", "setHostnameAsFQDN")
OWN_LABEL_PREFIX = "rlhf.dev/"


class TemplateConflict(ValueError):
    """The user's template is not a pod template, or sets what is not the user's to set. The message names the field."""


def merge_template(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], *, main: str, at: str = "template"
) -> dict[str, Any]:
    """Return our pod template (metadata, spec) with the user's merged over it.

    main: the name of our container. Its command, args, ports and environment, the pod's restartPolicy and host name,
    and our labels stay ours. Raises TemplateConflict, with the path of the field below `at`.
    """
    check(ours, theirs, main=main, at=at)
    merged = _merge(ours, theirs)
    if not isinstance(merged, dict):
        raise TemplateConflict(f"{at} must be an object with metadata and spec")
    return merged


def check(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, main: str, at: str) -> None:
    """Raise TemplateConflict when the user's template sets a protected field to another value than ours."""
    for key in theirs:
        if key not in ("metadata", "spec"):
            raise TemplateConflict(f"{at}.{key}: a pod template has metadata and spec only")
    _refuse_nulls(theirs, at, "metadata", "spec")
    metadata = _object(theirs.get("metadata"), f"{at}.metadata")
    spec = _object(theirs.get("spec"), f"{at}.spec")
    _refuse_nulls(metadata, f"{at}.metadata", "labels")
    _refuse_nulls(spec, f"{at}.spec", "containers", "volumes")
    for key in metadata:
        if key not in ("labels", "annotations"):
            raise TemplateConflict(f"{at}.metadata.{key} can't be set: only labels and annotations can")
    our_labels = ours.get("metadata", {}).get("labels", {})
    for label, value in _object(metadata.get("labels"), f"{at}.metadata.labels").items():
        own = label in our_labels or label.startswith(OWN_LABEL_PREFIX) or label == MANAGED_BY_LABEL
        if own and our_labels.get(label) != value:
            raise TemplateConflict(f"{at}.metadata.labels[{label}] belongs to the operator and can't be overridden")
    for field in PROTECTED_POD_FIELDS:
        if field in spec and spec[field] != ours["spec"].get(field):
            raise TemplateConflict(f"{at}.spec.{field} can't be overridden")
    for kind in ("containers", "initContainers"):
        for container in _list(spec.get(kind), f"{at}.spec.{kind}"):
            _check_container(ours, container, kind, main, f"{at}.spec.{kind}")
    _refuse_directives(theirs, at)


def _check_container(ours: Mapping[str, Any], container: Any, kind: str, main: str, at: str) -> None:
    entry = _object(container, at)
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise TemplateConflict(f"{at}: every container needs a name; {main!r} is the operator's own")
    if name != main:
        return
    if kind != "containers":
        raise TemplateConflict(f"{at}[{main}]: the name {main!r} belongs to the operator's container")
    our_container = next(each for each in ours["spec"]["containers"] if each["name"] == main)
    for field in PROTECTED_CONTAINER_FIELDS:
        if field in entry and entry[field] != our_container.get(field):
            raise TemplateConflict(f"{at}[{main}].{field} can't be overridden")
    _refuse_nulls(entry, f"{at}[{main}]", "env", "volumeMounts", "image", "name")
    own_env = {variable["name"]: variable for variable in our_container.get("env", ())}
    for variable in _list(entry.get("env"), f"{at}[{main}].env"):
        variable_name = _object(variable, f"{at}[{main}].env").get("name")
        ours_too = variable_name in own_env and variable != own_env[variable_name]
        if ours_too or str(variable_name).startswith("RLHF_"):
            raise TemplateConflict(f"{at}[{main}].env[{variable_name}] belongs to the operator and can't be overridden")


def _refuse_nulls(theirs: Mapping[str, Any], at: str, *fields: str) -> None:
    """A null drops a field: where the field holds what is ours, it would drop that too."""
    for field in fields:
        if field in theirs and theirs[field] is None:
            raise TemplateConflict(f"{at}.{field} can't be null")


def _object(value: Any, at: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TemplateConflict(f"{at} must be an object, not {type(value).__name__}")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TemplateConflict(f"{at} must be a list, not {type(value).__name__}")
    return value


def _refuse_directives(value: Any, at: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).startswith("$"):
                raise TemplateConflict(
                    f"{at}.{key}: patch directives are not supported; set a field to null to drop it"
                )
            _refuse_directives(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_directives(inner, f"{at}[{index}]")


def _merge(ours: Any, theirs: Any, key: str = "") -> Any:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged = {name: copy.deepcopy(value) for name, value in ours.items() if theirs.get(name, value) is not None}
        for name, value in theirs.items():
            if value is not None:
                merged[name] = _merge(ours.get(name), value, name)
        return merged
    if isinstance(ours, list) and isinstance(theirs, list):
        if key in APPENDED:
            return copy.deepcopy(ours + [entry for entry in theirs if entry not in ours])
        if key in MERGE_KEYS:
            return _merge_by(MERGE_KEYS[key], ours, theirs)
    return copy.deepcopy(theirs)


def _merge_by(merge_key: str, ours: Iterable[Any], theirs: Iterable[Any]) -> list[Any]:
    merged = [copy.deepcopy(entry) for entry in ours]
    places = {entry.get(merge_key): index for index, entry in enumerate(merged) if isinstance(entry, Mapping)}
    for entry in theirs:
        identity = entry.get(merge_key) if isinstance(entry, Mapping) else None
        if identity is not None and identity in places:
            merged[places[identity]] = _merge(merged[places[identity]], entry)
        else:
            merged.append(copy.deepcopy(entry))
            places[identity] = len(merged) - 1
    return merged
