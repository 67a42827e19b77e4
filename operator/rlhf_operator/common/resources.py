"""The Kubernetes resources the operator touches, by name. No IO, no discovery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of the Kubernetes API, enough of it to build a path and a manifest."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apiVersion` as manifests write it: `v1`, `batch/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Plural and group as RBAC and kubectl write it: `jobs.batch`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Path below the server's root; without a namespace the collection over all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def __str__(self) -> str:
        return self.qualified


RLHF_GROUP = "rlhf.dev"
RLHF_VERSION = "v1alpha1"

RLHFJOBS = Resource(RLHF_GROUP, RLHF_VERSION, "RLHFJob", "rlhfjobs")
REWARDMODELS = Resource(RLHF_GROUP, RLHF_VERSION, "RewardModel", "rewardmodels")
POLICYROLLOUTS = Resource(RLHF_GROUP, RLHF_VERSION, "PolicyRollout", "policyrollouts")

CONFIGMAPS = Resource("", "v1", "ConfigMap", "configmaps")
SECRETS = Resource("", "v1", "Secret", "secrets")
SERVICES = Resource("", "v1", "Service", "services")
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
SERVICEACCOUNTS = Resource("", "v1", "ServiceAccount", "serviceaccounts")
PODS = Resource("", "v1", "Pod", "pods")
PVCS = Resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PVS = Resource("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False)
NODES = Resource("", "v1", "Node", "nodes", namespaced=False)
NAMESPACES = Resource("", "v1", "Namespace", "namespaces", namespaced=False)
JOBS = Resource("batch", "v1", "Job", "jobs")
DEPLOYMENTS = Resource("apps", "v1", "Deployment", "deployments")
CONTROLLERREVISIONS = Resource("apps", "v1", "ControllerRevision", "controllerrevisions")
PDBS = Resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
SCALEDOBJECTS = Resource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects")
STORAGECLASSES = Resource("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False)
EVENTS = Resource("events.k8s.io", "v1", "Event", "events")
LEASES = Resource("coordination.k8s.io", "v1", "Lease", "leases")
CRDS = Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta1", "Workload", "workloads")
LOCALQUEUES = Resource("kueue.x-k8s.io", "v1beta1", "LocalQueue", "localqueues")
HTTPROUTES = Resource("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "Gateway", "gateways")
GATEWAYCLASSES = Resource("gateway.networking.k8s.io", "v1", "GatewayClass", "gatewayclasses", namespaced=False)

ALL: tuple[Resource, ...] = (
    RLHFJOBS,
    REWARDMODELS,
    POLICYROLLOUTS,
    CONFIGMAPS,
    SECRETS,
    SERVICES,
    ENDPOINTSLICES,
    SERVICEACCOUNTS,
    PODS,
    PVCS,
    PVS,
    NODES,
    NAMESPACES,
    JOBS,
    DEPLOYMENTS,
    CONTROLLERREVISIONS,
    PDBS,
    SCALEDOBJECTS,
    STORAGECLASSES,
    EVENTS,
    LEASES,
    CRDS,
    WORKLOADS,
    LOCALQUEUES,
    HTTPROUTES,
    GATEWAYS,
    GATEWAYCLASSES,
)

_BY_KIND = {(resource.api_version, resource.kind): resource for resource in ALL}


def resource_of(api_version: str, kind: str) -> Resource:
    """The resource of a manifest's `apiVersion` and `kind`; KeyError for one the operator does not know."""
    return _BY_KIND[(api_version, kind)]
