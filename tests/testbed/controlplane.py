"""The control plane: etcd, kube-apiserver and kube-controller-manager with real certificates and RBAC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed import pki
from testbed.kubeapi import KubeApi
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import BedState

NODE_NAME = "testbed"
POD_CIDR = "10.244.0.0/24"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"

_READY_TIMEOUT_SECONDS = 120
_FRONT_PROXY = "front-proxy-client"

# file name -> (user, group): who each component is to the API server.
_CLIENTS = {
    "admin": ("rlhf-testbed-admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "apiserver-kubelet": ("kube-apiserver-kubelet-client", "system:masters"),
}


def front_proxy(paths: Paths) -> Path:
    """Where the authority is that requests of users passed on by the API server are known by."""
    return paths.pki / "front-proxy"


def write_credentials(paths: Paths, state: BedState) -> None:
    """Keys, certificates and kubeconfigs of every component, the node's included."""
    authority = pki.Authority(paths.pki)
    authority.service_account_key()
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    names += [f"kubernetes.default.svc.{CLUSTER_DOMAIN}", KUBERNETES_SERVICE_IP, "127.0.0.1"]
    authority.issue("kube-apiserver", "kube-apiserver", hosts=sorted({*names, state.node_ip}))
    node_hosts = sorted({NODE_NAME, "127.0.0.1", state.node_ip})
    authority.issue("kubelet", f"system:node:{NODE_NAME}", "system:nodes", hosts=node_hosts)
    # The API server is a client, too: of other API servers that stand behind it, which trust this authority alone.
    pki.Authority(front_proxy(paths)).issue("client", _FRONT_PROXY)
    server = f"https://127.0.0.1:{state.ports.api}"
    for name, (user, group) in _CLIENTS.items():
        authority.issue(name, user, group)
        pki.write_kubeconfig(paths.kubeconfigs / name, server, paths.pki, name)
    pki.write_kubeconfig(paths.kubeconfigs / "kubelet", server, paths.pki, "kubelet")
    pki.write_kubeconfig(paths.kubeconfig, server, paths.pki, "admin")


def etcd_arguments(paths: Paths, state: BedState) -> list[str]:
    """The flags of etcd, without fsync: the bed's data does not outlive the bed."""
    client, peer = f"http://127.0.0.1:{state.ports.etcd}", f"http://127.0.0.1:{state.ports.etcd_peer}"
    return [
        f"--data-dir={paths.bed / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
    ]


def apiserver_arguments(paths: Paths, state: BedState) -> list[str]:
    """kube-apiserver's flags; they already hold what a node needs, so that a node can join later."""
    keys, front = paths.pki, front_proxy(paths)
    return [
        f"--etcd-servers=http://127.0.0.1:{state.ports.etcd}",
        f"--advertise-address={state.node_ip}",
        f"--secure-port={state.ports.api}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--tls-cert-file={keys / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={keys / 'kube-apiserver.key'}",
        f"--kubelet-client-certificate={keys / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={keys / 'apiserver-kubelet.key'}",
        f"--kubelet-certificate-authority={keys / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={front / 'ca.crt'}",
        f"--requestheader-allowed-names={_FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={front / 'client.crt'}",
        f"--proxy-client-key-file={front / 'client.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys / 'sa.pub'}",
        f"--service-account-signing-key-file={keys / 'sa.key'}",
        "--allow-privileged=true",
        # The bed's API server has no load balancer in front that would need time to notice.
        "--shutdown-delay-duration=0s",
    ]


def controller_manager_arguments(paths: Paths) -> list[str]:
    """kube-controller-manager's flags; one copy, so no leader election."""
    kubeconfig = paths.kubeconfigs / "kube-controller-manager"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={paths.pki / 'sa.key'}",
        f"--root-ca-file={paths.pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={paths.pki / 'ca.crt'}",
        f"--cluster-signing-key-file={paths.pki / 'ca.key'}",
        "--allocate-node-cidrs=false",
        "--leader-elect=false",
        # Nobody asks it anything, and a second control plane beside this one must find no port taken.
        "--secure-port=0",
        # The default of 20 requests a second would make the benchmarks measure this limit.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def start(paths: Paths, state: BedState, daemons: Daemons, binaries: Mapping[str, Path], progress: Progress) -> None:
    """Start the three and wait until a pod could be created: API ready, default service account there."""
    write_credentials(paths, state)
    daemons.start("etcd", [str(binaries["etcd"]), *etcd_arguments(paths, state)])
    daemons.start("kube-apiserver", [str(binaries["kube-apiserver"]), *apiserver_arguments(paths, state)])
    api = KubeApi(state.ports.api, paths.pki)

    def ready() -> bool:
        daemons.check("etcd")
        daemons.check("kube-apiserver")
        return api.ready()

    wait_until("the API server's readiness", ready, _READY_TIMEOUT_SECONDS, hint=str(paths.logs))
    progress.say("the API server is ready")
    daemons.start(
        "kube-controller-manager",
        [str(binaries["kube-controller-manager"]), *controller_manager_arguments(paths)],
    )

    def account() -> bool:
        daemons.check("kube-controller-manager")
        return api.get("/api/v1/namespaces/default/serviceaccounts/default")[0] == 200

    wait_until("the default service account", account, _READY_TIMEOUT_SECONDS, hint=str(paths.logs))
    progress.say("the controller manager works")
