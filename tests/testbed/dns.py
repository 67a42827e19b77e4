"""CoreDNS as the cluster's DNS: its manifests and the check that it answers."""

from __future__ import annotations

import secrets
import socket
import struct
from contextlib import closing
from typing import Any

from testbed.controlplane import CLUSTER_DOMAIN, DNS_SERVICE_IP, KUBERNETES_SERVICE_IP

_COREFILE = f"""\
.:53 {{
  errors
  health
  ready
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
    pods insecure
    ttl 5
  }}
  prometheus :9153
  loop
  reload
}}
"""
_LABELS = {"k8s-app": "kube-dns"}
_TYPE_A = 1


def manifests(image: str) -> list[dict[str, Any]]:
    """ServiceAccount, RBAC, ConfigMap, Deployment and Service. It answers cluster names only."""
    meta = {"name": "coredns", "namespace": "kube-system"}
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"requests": {"cpu": "20m", "memory": "40Mi"}, "limits": {"memory": "170Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1, "timeoutSeconds": 10},
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": 8080},
            "initialDelaySeconds": 30,
            "timeoutSeconds": 10,
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        # A drained node must keep its DNS: the bed has no second one.
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"},
    ]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE_IP, "selector": _LABELS, "ports": ports},
        },
    ]


def answers() -> bool:
    """Whether the cluster's DNS address resolves the API server's Service."""
    name = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
    return KUBERNETES_SERVICE_IP in lookup(name, DNS_SERVICE_IP, timeout_seconds=1.0)


def lookup(name: str, server: str, timeout_seconds: float) -> list[str]:
    """IPv4 addresses of a name by one UDP query (RFC 1035, section 4); empty when there is no answer."""
    identity = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = labels + b"\0" + struct.pack(">HH", _TYPE_A, 1)
    query = struct.pack(">HHHHHH", identity, 0x0100, 1, 0, 0, 0) + question
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(timeout_seconds)
        try:
            sock.sendto(query, (server, 53))
            reply = sock.recv(512)
        except OSError:
            return []
    return parse_addresses(reply, identity, len(query))


def parse_addresses(reply: bytes, identity: int, answers_at: int) -> list[str]:
    """The A records of a reply whose answers begin at an offset; names there are pointers or label lists."""
    if len(reply) < answers_at or struct.unpack(">H", reply[:2])[0] != identity or reply[3] & 0x0F:
        return []
    count, offset, found = struct.unpack(">H", reply[6:8])[0], answers_at, []
    for _ in range(count):
        while offset < len(reply) and reply[offset] != 0 and reply[offset] < 0xC0:
            offset += 1 + reply[offset]
        offset += 2 if offset < len(reply) and reply[offset] >= 0xC0 else 1
        if offset + 10 > len(reply):
            break
        kind, _, _, size = struct.unpack(">HHIH", reply[offset : offset + 10])
        data = reply[offset + 10 : offset + 10 + size]
        if kind == _TYPE_A and len(data) == 4:
            found.append(socket.inet_ntoa(data))
        offset += 10 + size
    return found
