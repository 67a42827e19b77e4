"""The operator's settings: environment variables with the prefix RLHF_OPERATOR_. Nothing else reads it."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.errors import SettingsInvalid
from rlhf_operator.prometheus.addresses import AllowList

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def _own_namespace() -> str:
    """The namespace of the pod this process runs in; `default` outside a cluster."""
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _identity() -> str:
    """Unique per process: a restarted pod keeps its host name, and must not take its own old Lease for held."""
    return f"{os.environ.get('POD_NAME') or socket.gethostname()}_{uuid.uuid4().hex[:8]}"


class Settings(BaseSettings):
    """Everything that can be set from outside, with its unit in its name."""

    model_config = SettingsConfigDict(env_prefix="RLHF_OPERATOR_", extra="ignore", frozen=True)

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated list of namespaces to serve; empty serves the whole cluster."""
    kinds: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated kinds to serve; empty serves every kind that this version has a controller for."""
    kubeconfig: Path | None = None
    """Kubeconfig file; without it the pod's service account, then $KUBECONFIG, then ~/.kube/config."""

    trainer_image: str = "ghcr.io/rlhf-operator/trainer:0.1.0"
    """Image of training pods that name none in their template."""
    trainer_image_pull_policy: str = Field(default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$")
    server_image: str = "ghcr.io/rlhf-operator/server:0.1.0"
    """Image of serving pods that name none; frozen with what it serves."""
    server_image_pull_policy: str = Field(default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$")
    prometheus_url: str = Field(default="", pattern=r"^(https?://\S+)?$", max_length=2048)
    """Prometheus, for analyses that name none and, as KEDA reaches it, for autoscaling by queue depth; empty: none."""
    prometheus_scrape_seconds: float = Field(default=15.0, gt=0, le=600)
    """Time between two scrapes of a pod by the Prometheus that analyses ask: what it extrapolates is not counted."""
    analysis_allowed_urls: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated URLs at or below which analyses may ask a Prometheus, beside prometheus_url."""
    commands_verified: bool = False
    """Whether the chart's admission policy holds commands of rollouts against who sends them."""
    progress_interval_seconds: float = Field(default=15.0, gt=0, le=3600)
    """How often a running job is asked for its progress."""
    kueue_timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """How long a queued Job may be without a Workload before KueueNotResponding is said."""
    former_version_seconds: float = Field(default=60.0, gt=0, le=3600)
    """How long the pods of a RewardModel's former version stay once another serves: clients may still be connected."""
    gateway_mirror: str = Field(default="auto", pattern="^(auto|supported|unsupported)$")
    """Whether gateways mirror a percentage of the requests; auto: by what is known of their controller."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Comma-separated hosts outside the cluster that texts may be sent to."""
    hub_access: bool = False
    """Whether models and datasets may be fetched from the hub."""

    workers: int = Field(default=16, ge=1, le=256)
    """Reconciles at one time, over all kinds."""
    drain_seconds: float = Field(default=10.0, ge=0, le=300)
    """How long reconciles may finish after SIGTERM."""
    backoff_base_seconds: float = Field(default=0.5, gt=0, le=60)
    backoff_max_seconds: float = Field(default=300.0, gt=0, le=3600)

    watch_timeout_seconds: int = Field(default=240, ge=1, le=3600)
    """How long the server keeps one watch open before it is renewed."""
    watch_silence_seconds: float = Field(default=260.0, gt=0)
    """A watch without a byte for so long is broken off and begun again: the server should have ended it by then."""
    watch_unhealthy_seconds: float = Field(default=300.0, gt=0)
    """A watch that heard nothing for so long, renewals included, turns readiness and liveness red."""

    leader_election: bool = True
    lease_name: str = "rlhf-operator"
    lease_namespace: str = Field(default_factory=_own_namespace)
    lease_duration_seconds: int = Field(default=15, ge=1, le=600)
    """How long others wait after the last renewal before they take over."""
    lease_renew_deadline_seconds: float = Field(default=10.0, gt=0)
    """How long the leader keeps trying to renew before it ends itself."""
    lease_retry_seconds: float = Field(default=2.0, gt=0)
    identity: str = Field(default_factory=_identity)

    health_host: str = "0.0.0.0"  # noqa: S104 - the kubelet probes the pod's own address
    health_port: int = Field(default=8080, ge=0, le=65535)
    """Port of /healthz, /readyz and /metrics; 0 picks a free one and logs it."""
    health_port_file: Path | None = None
    """Where the port that was picked is written, for those who asked for 0."""

    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator("namespaces", "kinds", "allowed_hosts", "analysis_allowed_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("analysis_allowed_urls")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.of(value)
        return value

    @field_validator("prometheus_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        AllowList.of((value,))
        return value

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        # The leader must have given up before another may begin, which it may one retry early.
        retry, deadline, duration = (
            self.lease_retry_seconds,
            self.lease_renew_deadline_seconds,
            self.lease_duration_seconds,
        )
        if not retry < deadline < duration - retry:
            raise ValueError(
                "lease_retry_seconds < lease_renew_deadline_seconds < lease_duration_seconds - lease_retry_seconds "
                f"must hold: {retry} < {deadline} < {duration - retry}"
            )
        # Not every server sends bookmarks for a resource that never changes: only the end of a watch is sure to come.
        if not self.watch_timeout_seconds < self.watch_silence_seconds < self.watch_unhealthy_seconds:
            raise ValueError(
                "watch_timeout_seconds < watch_silence_seconds < watch_unhealthy_seconds must hold: "
                f"{self.watch_timeout_seconds} < {self.watch_silence_seconds} < {self.watch_unhealthy_seconds}"
            )
        return self

    @property
    def predecessor(self) -> str | None:
        """What the identities of this pod's former processes begin with; None where that can't be told."""
        pod = os.environ.get("POD_NAME")
        return f"{pod}_" if pod and self.identity.startswith(f"{pod}_") else None

    def analysis_addresses(self) -> AllowList:
        """What analyses may call."""
        return AllowList.of((self.prometheus_url, *self.analysis_allowed_urls))

    def defaults(self) -> OperatorDefaults:
        """The part that controllers render from."""
        return OperatorDefaults(
            trainer_image=self.trainer_image,
            trainer_image_pull_policy=self.trainer_image_pull_policy,
            server_image=self.server_image,
            server_image_pull_policy=self.server_image_pull_policy,
            prometheus_url=self.prometheus_url,
            prometheus_scrape_seconds=self.prometheus_scrape_seconds,
            gateway_mirror=self.gateway_mirror,
            commands_verified=self.commands_verified,
            progress_interval_seconds=self.progress_interval_seconds,
            kueue_timeout_seconds=self.kueue_timeout_seconds,
            former_version_seconds=self.former_version_seconds,
            allowed_hosts=self.allowed_hosts,
            hub_access=self.hub_access,
        )


def load_settings() -> Settings:
    """Settings from the environment. Raises SettingsInvalid with the variables by name."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"RLHF_OPERATOR_{'_'.join(map(str, item['loc'])).upper() or '*'}: {item['msg']}" for item in error.errors()
        ]
        raise SettingsInvalid("; ".join(lines)) from error
