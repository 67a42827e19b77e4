"""Which cluster, user and namespace kubectl would use: kubectl itself is asked, log-in plugins are run."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from rlhf_operator.errors import CredentialsUnusable
from rlhf_operator.kube.credentials import SERVICE_ACCOUNT, Credentials, from_text, in_cluster

_KUBECTL_SECONDS = 30
# A plugin may open a browser and wait for a person.
_PLUGIN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Login:
    """Where to go, as whom, and the namespace that is meant when none is named."""

    credentials: Credentials
    namespace: str


class _Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")


class _Exec(_Camel):
    command: str
    args: list[str] | None = None
    env: list[dict[str, str]] | None = None
    api_version: str


class _ExecStatus(_Camel):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None


class _ExecCredential(_Camel):
    status: _ExecStatus


def log_in(kubeconfig: Path | None = None, context: str | None = None) -> Login:
    """As kubectl would with the same flags. Raises CredentialsUnusable."""
    text = _view(kubeconfig, context)
    config = json.loads(text)
    if not config.get("clusters"):
        if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
            return Login(in_cluster(), (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip())
        raise CredentialsUnusable("no kubeconfig: set KUBECONFIG or give --kubeconfig")
    contexts = config.get("contexts") or [{}]
    namespace = (contexts[0].get("context") or {}).get("namespace") or "default"
    return Login(from_text(text, kubeconfig or Path("kubeconfig"), run_plugin), namespace)


def _view(kubeconfig: Path | None, context: str | None) -> str:
    """The one context that is meant, files merged and certificates put in: that is kubectl's own affair."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CredentialsUnusable("kubectl is not on the PATH; kubectl rlhf reads the kubeconfig through it")
    command = [kubectl, "config", "view", "--minify", "--flatten", "--raw", "--output=json"]
    if kubeconfig is not None:
        command.append(f"--kubeconfig={kubeconfig}")
    if context is not None:
        command.append(f"--context={context}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_KUBECTL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CredentialsUnusable(f"kubectl config view: {type(error).__name__}") from error
    if done.returncode != 0:
        words = done.stderr.strip().removeprefix("error: ")
        # Inside a pod there is no kubeconfig, and --minify says so.
        if kubeconfig is None and context is None and "current-context must exist" in words:
            return "{}"
        raise CredentialsUnusable(f"kubeconfig: {words[:500]}")
    return done.stdout


def run_plugin(block: Mapping[str, Any]) -> Mapping[str, str]:
    """Run a log-in plugin (client-go's credential plugins). Raises CredentialsUnusable; shows nothing of its output."""
    try:
        plugin = _Exec.model_validate(block)
    except ValidationError as error:
        raise CredentialsUnusable("kubeconfig: the user's exec block is not complete") from error
    asked = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": {"interactive": True}}
    environment = {each["name"]: each["value"] for each in plugin.env or () if {"name", "value"} <= each.keys()}
    try:
        done = subprocess.run(
            [plugin.command, *(plugin.args or ())],
            env=os.environ | environment | {"KUBERNETES_EXEC_INFO": json.dumps(asked)},
            stdout=subprocess.PIPE,
            timeout=_PLUGIN_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CredentialsUnusable(f"log-in plugin {plugin.command}: {type(error).__name__}") from error
    if done.returncode != 0:
        raise CredentialsUnusable(f"log-in plugin {plugin.command} ended with {done.returncode}")
    try:
        status = _ExecCredential.model_validate_json(done.stdout).status
    except ValidationError:
        raise CredentialsUnusable(f"log-in plugin {plugin.command} printed no ExecCredential") from None
    if status.token:
        return {"token": status.token}
    if status.client_certificate_data and status.client_key_data:
        return {
            "client-certificate-data": base64.b64encode(status.client_certificate_data.encode()).decode(),
            "client-key-data": base64.b64encode(status.client_key_data.encode()).decode(),
        }
    raise CredentialsUnusable(f"log-in plugin {plugin.command} gave neither a token nor a certificate")
