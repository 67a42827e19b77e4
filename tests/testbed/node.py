"""The node: scheduler, containerd, kubelet and kube-proxy on this host, next to the control plane."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed import containerd, host
from testbed.controlplane import CLUSTER_DOMAIN, DNS_SERVICE_IP, NODE_NAME, POD_CIDR
from testbed.errors import BedError
from testbed.images import BuiltImage, ImageStore
from testbed.kubeapi import KubeApi
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import BedState

_READY_TIMEOUT_SECONDS = 120
_KUBELET_RESTARTS = 10
_SOCKET_PATH_LIMIT = 104


def kubelet_config(paths: Paths) -> dict[str, Any]:
    """KubeletConfiguration. Eviction in bytes: a nearly full disk of a developer's machine must not evict."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(paths.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "maxPods": 200,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1Gi",
            "imagefs.available": "1Gi",
            "nodefs.inodesFree": "1%",
        },
        "podLogsDir": str(paths.bed / "podlogs"),
        "volumePluginDir": str(paths.bed / "kubelet" / "volumeplugins"),
        "shutdownGracePeriod": "0s",
    }


def kube_proxy_config(paths: Paths) -> dict[str, Any]:
    """KubeProxyConfiguration. Conntrack limits are left as the host has them."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(paths.kubeconfigs / "kube-proxy")},
        "mode": "iptables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE_NAME,
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s"},
    }


def scheduler_arguments(paths: Paths) -> list[str]:
    """kube-scheduler's flags; one copy, so no leader election."""
    kubeconfig = paths.kubeconfigs / "kube-scheduler"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        # No port of its own: two beds of one machine would meet there.
        "--secure-port=0",
    ]


def start_scheduler(paths: Paths, daemons: Daemons, binary: Path) -> None:
    """Start the scheduler unless it runs."""
    if not daemons.running("kube-scheduler"):
        daemons.start("kube-scheduler", [str(binary), *scheduler_arguments(paths)])


def start(paths: Paths, state: BedState, daemons: Daemons, binaries: Mapping[str, Path], progress: Progress) -> None:
    """Start the node's daemons and wait until the node is Ready. The control plane runs already."""
    check_socket_path(paths)
    host.set_kernel(paths.bed / "kernel.json")
    start_scheduler(paths, daemons, binaries["kube-scheduler"])
    pause = ImageStore(paths, progress).pause(Path(shutil.which("catatonit") or "/usr/bin/catatonit"))
    start_containerd(paths, daemons, pause, progress)
    paths.bed.joinpath("kubelet").mkdir(exist_ok=True)
    kubelet_file, proxy_file = paths.bed / "kubelet.json", paths.bed / "kube-proxy.json"
    kubelet_file.write_text(json.dumps(kubelet_config(paths), indent=1))
    proxy_file.write_text(json.dumps(kube_proxy_config(paths), indent=1))
    kubelet = [
        str(binaries["kubelet"]),
        f"--config={kubelet_file}",
        f"--kubeconfig={paths.kubeconfigs / 'kubelet'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={state.node_ip}",
        f"--root-dir={paths.bed / 'kubelet'}",
        f"--cert-dir={paths.pki}",
    ]
    daemons.start("kubelet", kubelet)
    daemons.start("kube-proxy", [str(binaries["kube-proxy"]), f"--config={proxy_file}"])
    api = KubeApi(state.ports.api, paths.pki)

    # containerd answers before its CRI plug-in is initialised, and kubelet ends when it meets it then; elsewhere
    # systemd starts it again.
    revive_kubelet = daemons.reviver("kubelet", kubelet, _KUBELET_RESTARTS)

    def ready() -> bool:
        revive_kubelet()
        for name in ("containerd", "kubelet", "kube-proxy", "kube-scheduler"):
            daemons.check(name)
        return node_ready(api.json(f"/api/v1/nodes/{NODE_NAME}"))

    wait_until("the node's readiness", ready, _READY_TIMEOUT_SECONDS, hint=str(paths.logs))
    progress.say("the node is Ready")


def check_socket_path(paths: Paths) -> None:
    """Raise BedError where the kernel would refuse the runtime's sockets for the length of their paths."""
    longest = f"{paths.containerd_socket}.ttrpc"
    if len(longest) > _SOCKET_PATH_LIMIT:
        raise BedError(
            f"the folder {paths.root} is too long for sockets below it ({len(longest)} of {_SOCKET_PATH_LIMIT} bytes); "
            "set XDG_CACHE_HOME to a shorter one"
        )


def start_containerd(paths: Paths, daemons: Daemons, pause: BuiltImage, progress: Progress) -> None:
    """Start containerd and give it the sandbox image."""
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.containerd.mkdir(parents=True, exist_ok=True)
    config = containerd.write_config(paths, pause.name, POD_CIDR)
    binary = shutil.which("containerd") or "/usr/bin/containerd"
    daemons.start("containerd", [binary, "-c", str(config), "-l", "info"])
    ctr = containerd.Ctr(paths)

    def serves() -> bool:
        daemons.check("containerd")
        return ctr.answers()

    wait_until("containerd", serves, 60, hint=str(daemons.log("containerd")))
    ctr.import_images([pause], progress)


def node_ready(node: dict[str, Any] | None) -> bool:
    """Whether a Node object says Ready=True."""
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
