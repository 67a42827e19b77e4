"""Where the API server is and how to log in to it: a pod's service account, or a kubeconfig. No requests."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from rlhf_operator.errors import CredentialsUnusable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_KUBECONFIG_LIMIT_BYTES = 4 << 20
# Bound tokens are rotated on disk long before they end: half a minute is what client-go's cache takes.
_TOKEN_MAX_AGE_SECONDS = 30.0


Plugin = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Runs a kubeconfig's `exec` block; returns `token`, or `client-certificate-data` and `client-key-data` in base64."""


class _Kebab(BaseModel):
    """kubeconfig's own spelling: kebab-case; unknown keys are other tools' business."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"), extra="ignore")


class _Cluster(_Kebab):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None


class _User(_Kebab):
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    token: str | None = None
    token_file: str | None = Field(default=None, alias="tokenFile")
    exec_: dict[str, Any] | None = Field(default=None, alias="exec")
    auth_provider: dict[str, Any] | None = None


class _Context(_Kebab):
    cluster: str
    user: str


class _NamedCluster(_Kebab):
    name: str
    cluster: _Cluster


class _NamedUser(_Kebab):
    name: str
    user: _User


class _NamedContext(_Kebab):
    name: str
    context: _Context


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore", alias_generator=to_camel)

    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []
    current_context: str = Field(default="", alias="current-context")


@dataclass(slots=True)
class Credentials:
    """A server and how to log in. `repr` shows no secret."""

    server: str
    tls: ssl.SSLContext | None = field(repr=False, default=None)
    server_name: str | None = None
    static_token: str | None = field(repr=False, default=None)
    token_file: Path | None = None
    _cached_token: str | None = field(repr=False, default=None)
    _cached_at: float = field(repr=False, default=float("-inf"))

    def headers(self) -> Mapping[str, str]:
        """The Authorization header, if one is used; a token file is read again every half minute."""
        token = self.static_token
        if self.token_file is not None:
            now = time.monotonic()
            if self._cached_token is None or now - self._cached_at > _TOKEN_MAX_AGE_SECONDS:
                try:
                    self._cached_token = self.token_file.read_text(encoding="utf-8").strip()
                except OSError as error:
                    raise CredentialsUnusable(f"token file {self.token_file}: {error.strerror}") from error
                self._cached_at = now
            token = self._cached_token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def forget_token(self) -> None:
        """Read the token file again at the next request: the server refused the token that was used."""
        self._cached_at = float("-inf")


def load_credentials(kubeconfig: Path | None = None) -> Credentials:
    """The given kubeconfig, else the pod's service account, else $KUBECONFIG, else ~/.kube/config."""
    if kubeconfig is not None:
        return from_kubeconfig(kubeconfig)
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").exists():
        return in_cluster()
    # Only the first file: merging several is kubectl's affair, and a silent half of it would log in as someone else.
    first = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(first) if first else Path.home() / ".kube" / "config"
    if path.exists():
        return from_kubeconfig(path)
    raise CredentialsUnusable(
        f"no pod service account and no kubeconfig at {path}; set RLHF_OPERATOR_KUBECONFIG or run in a cluster"
    )


def in_cluster(directory: Path = SERVICE_ACCOUNT) -> Credentials:
    """The pod's service account."""
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Credentials(
        server=f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        token_file=directory / "token",
    )


def from_kubeconfig(path: Path) -> Credentials:
    """The current context of a kubeconfig. Raises CredentialsUnusable naming the file and the key."""
    try:
        if path.stat().st_size > _KUBECONFIG_LIMIT_BYTES:
            raise CredentialsUnusable(f"{path}: larger than {_KUBECONFIG_LIMIT_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CredentialsUnusable(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialsUnusable(f"{path}: not YAML") from error
    return from_text(text, path)


def from_text(text: str, path: Path, plugin: Plugin | None = None) -> Credentials:
    """The current context of a kubeconfig that was read from `path`. Raises CredentialsUnusable, naming the key.

    plugin: what runs log-in plugins; without it, users who need one are refused.
    """
    try:
        config = _Config.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise CredentialsUnusable(f"{path}: not YAML") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise CredentialsUnusable(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    context = next((c.context for c in config.contexts if c.name == config.current_context), None)
    if context is None:
        raise CredentialsUnusable(f"{path}: current-context {config.current_context!r} is not among its contexts")
    cluster = next((c.cluster for c in config.clusters if c.name == context.cluster), None)
    user = next((u.user for u in config.users if u.name == context.user), None)
    if cluster is None or user is None:
        raise CredentialsUnusable(f"{path}: context {config.current_context!r} names a cluster or user it lacks")
    if user.exec_ and plugin is not None:
        user = _User.model_validate(plugin(user.exec_))
    if user.exec_ or user.auth_provider:
        raise CredentialsUnusable(
            f"{path}: user {context.user!r} logs in by a plugin, which the operator does not run; "
            "use a certificate, a token or a token file"
        )
    base = path.resolve().parent
    return Credentials(
        server=cluster.server.rstrip("/"),
        tls=_tls(cluster, user, base) if cluster.server.startswith("https://") else None,
        server_name=cluster.tls_server_name,
        static_token=user.token,
        token_file=base / user.token_file if user.token_file else None,
    )


def _tls(cluster: _Cluster, user: _User, base: Path) -> ssl.SSLContext:
    try:
        data, file = cluster.certificate_authority_data, cluster.certificate_authority
        context = ssl.create_default_context(
            cafile=str(base / file) if file else None, cadata=_decoded(data).decode() if data else None
        )
        if cluster.insecure_skip_tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if user.client_certificate_data and user.client_key_data:
            _load_pair(context, _decoded(user.client_certificate_data), _decoded(user.client_key_data))
        elif user.client_certificate and user.client_key:
            context.load_cert_chain(str(base / user.client_certificate), str(base / user.client_key))
    except (OSError, ssl.SSLError, ValueError) as error:
        raise CredentialsUnusable(f"kubeconfig certificates of {cluster.server}: {error}") from error
    return context


def _decoded(data: str) -> bytes:
    return base64.b64decode(data, validate=True)


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # OpenSSL's binding loads pairs from files only; the file is ours alone (0600) and gone at once.
    with tempfile.NamedTemporaryFile(prefix="rlhf-operator-") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
