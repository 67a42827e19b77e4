"""A client for tests of the API itself: writes objects of the three kinds and says why one was refused."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

import testbed
from rlhf_operator.api.crd import KINDS

PLURALS = {kind.__name__: kind.plural for kind in KINDS}

Manifest = dict[str, Any]


class Cluster:
    """Writes objects of the three kinds, and says in detail why one was refused."""

    def __init__(self, bed: testbed.Bed, namespace: str) -> None:
        self.bed = bed
        self.namespace = namespace
        self._api = config.new_client_from_config(config_file=str(bed.kubeconfig))  # type: ignore[no-untyped-call]
        self.objects = client.CustomObjectsApi(self._api)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the session's namespace."""
        return self.bed.kubectl.run("--namespace", self.namespace, *arguments, stdin=stdin)

    def create(self, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Create an object; dry_run only asks whether it would be taken."""
        result = self.objects.create_namespaced_custom_object(
            *self._place(manifest), manifest, field_validation="Strict", dry_run="All" if dry_run else None
        )
        assert isinstance(result, dict)
        return result

    def patch(self, manifest: Manifest, patch: Manifest, subresource: str = "", dry_run: bool = False) -> Manifest:
        """Merge-patch an object that exists."""
        call = getattr(self.objects, f"patch_namespaced_custom_object{subresource}")
        result = call(
            *self._place(manifest), manifest["metadata"]["name"], patch, **({"dry_run": "All"} if dry_run else {})
        )
        assert isinstance(result, dict)
        return result

    def get(self, manifest: Manifest) -> Manifest:
        """The object as it is stored."""
        result = self.objects.get_namespaced_custom_object(*self._place(manifest), manifest["metadata"]["name"])
        assert isinstance(result, dict)
        return result

    def delete(self, manifest: Manifest) -> None:
        """Delete the object."""
        self.objects.delete_namespaced_custom_object(*self._place(manifest), manifest["metadata"]["name"])

    def close(self) -> None:
        """Give the connections back."""
        self._api.close()

    def _place(self, manifest: Manifest) -> tuple[str, str, str, str]:
        group, version = manifest["apiVersion"].split("/")
        return group, version, self.namespace, PLURALS[manifest["kind"]]


def refusals(error: ApiException) -> list[tuple[str, str]]:
    """(field, message) of everything the API server found wrong, without the value that it repeats."""
    status = json.loads(error.body or "{}")
    if "details" not in status:  # Strict decoding says it in one line.
        return [("", status["message"].partition("strict decoding error: ")[2])]
    causes = status["details"].get("causes", [])
    return [
        (cause["field"], re.sub(r'^(Invalid|Unsupported) value: ("(\\"|[^"])*"|[^:]*): ', "", cause["message"]))
        for cause in causes
        if "some validation rules were not checked" not in cause["message"]
    ]


def merged(manifest: Manifest, patch: Manifest) -> Manifest:
    """The manifest after a JSON merge patch (RFC 7396)."""
    result = copy.deepcopy(manifest)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result
