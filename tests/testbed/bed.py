"""Brings a bed up, finds out what runs, and takes it down; one at a time per user."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from testbed import addons as cluster_addons
from testbed import controlplane, host, kind, node, teardown
from testbed import gateway as data_plane
from testbed import keda as autoscaling
from testbed.binaries import require
from testbed.errors import BedError, BinaryUnavailableError, InvalidStateError, NotReadyError
from testbed.images import ImageStore
from testbed.kubeapi import KubeApi, Kubectl
from testbed.paths import Paths
from testbed.processes import Daemons
from testbed.progress import Progress, wait_until
from testbed.state import BedState, Profile, choose_ports, host_address, load
from testbed.versions import ADDONS, AUTOSCALING, CONTROL_PLANE, NODE, SYSTEM_PACKAGES

_CONTROL_PLANE_DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager")
_PATIENCE_SECONDS = 60
_NODE_DAEMONS = ("kube-scheduler", "containerd", "kubelet", "kube-proxy", "volumes")


class Addon(StrEnum):
    """What a bed has beside its profile, and only for those who ask."""

    KEDA = "keda"


class Origin(StrEnum):
    """Whose cluster it is, which decides how images get there."""

    OWN = "own"
    KIND = "kind"
    GIVEN = "given"


@dataclass(frozen=True)
class Bed:
    """A cluster to test against."""

    kubeconfig: Path
    profile: Profile
    kubectl_binary: Path
    paths: Paths
    origin: Origin = Origin.OWN

    @property
    def own(self) -> bool:
        """Whether this test bed runs it; others are not ours to restart."""
        return self.origin is Origin.OWN

    @property
    def kubectl(self) -> Kubectl:
        """The kubectl of the bed's version, logged in as admin."""
        return Kubectl(self.kubectl_binary, self.kubeconfig)


def ensure(
    profile: Profile | str = Profile.CONTROL_PLANE,
    progress: Progress | None = None,
    gateway: bool = True,
    addons: Collection[Addon] = (),
) -> Bed:
    """A running bed that covers the profile; brings it up when there is none.

    gateway: whether a node needs the gateway's data plane, which takes half a minute more the first time.
    addons: what a node has beside; another's cluster has what it has.
    `TESTBED_KUBECONFIG` names an existing cluster to use instead, `TESTBED=kind` a cluster by kind.
    """
    wanted = Profile(profile)
    progress = progress or Progress()
    paths = Paths.default()
    if given := os.environ.get("TESTBED_KUBECONFIG"):
        return _given(Path(given), wanted, paths, progress)
    if _by_kind():
        with _locked(paths):
            kubeconfig = kind.Kind(paths, progress).up()
        kubectl = require(["kubectl"], paths, progress)["kubectl"]
        return Bed(kubeconfig, Profile.NODE, kubectl, paths, Origin.KIND)
    # Who finds what it needs does not wait for another process that is adding to it.
    if (ready := _ready(wanted, gateway, paths, addons)) is not None:
        return _bed(ready, paths, progress)
    with _locked(paths):
        return up(wanted, paths, progress, gateway, addons)


def _by_kind() -> bool:
    match os.environ.get("TESTBED", ""):
        case "kind":
            return True
        case "":
            return False
        case other:
            raise BedError(f"TESTBED={other} is unknown; set it to kind, or unset it")


def _given(kubeconfig: Path, profile: Profile, paths: Paths, progress: Progress) -> Bed:
    if not kubeconfig.is_file():
        raise BedError(f"TESTBED_KUBECONFIG={kubeconfig} is not a file; unset it or name a kubeconfig")
    kubectl = require(["kubectl"], paths, progress)["kubectl"]
    return Bed(kubeconfig, profile, kubectl, paths, Origin.GIVEN)


@contextmanager
def _locked(paths: Paths) -> Iterator[None]:
    """Only one process at a time changes the bed; others wait for it."""
    paths.root.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(wanted: Profile, paths: Paths, progress: Progress, gateway: bool = True, addons: Collection[Addon] = ()) -> Bed:
    """Bring the bed up to the wanted profile; instant when it is. Cleans up first after a crash."""
    if wanted is Profile.NODE:
        host.require_root()
    daemons = Daemons(paths.daemons, paths.logs)
    try:
        state = load(paths.state)
    except InvalidStateError:
        state = None
    if state is None or not control_plane_healthy(state, paths, daemons):
        if paths.bed.exists():
            progress.say("cleaning up after a bed that has ended")
            teardown.down(paths, progress)
        state = _start_control_plane(paths, daemons, progress)
    elif state.profile is Profile.NODE and not node_healthy(state, daemons):
        progress.say("cleaning up after a node that has ended")
        teardown.node_down(paths, progress)
        state = _saved(state.model_copy(update={"profile": Profile.CONTROL_PLANE, "complete": True}), paths)
    if not state.profile.covers(wanted):
        state = _add_node(state, paths, daemons, progress)
    if wanted is Profile.NODE and gateway and not state.gateway:
        state = _add_gateway(state, paths, progress)
    if wanted is Profile.NODE and Addon.KEDA in addons and not state.keda:
        autoscaling.install(paths, require((*CONTROL_PLANE, *AUTOSCALING), paths, progress), progress)
        state = _saved(state.model_copy(update={"keda": True}), paths)
    return _bed(state, paths, progress)


def _ready(wanted: Profile, gateway: bool, paths: Paths, addons: Collection[Addon]) -> BedState | None:
    """The state of a bed that has all that is wanted and is healthy, else None."""
    try:
        state = load(paths.state)
    except InvalidStateError:
        return None
    if state is None or not state.profile.covers(wanted):
        return None
    daemons = Daemons(paths.daemons, paths.logs)
    whole = (state.gateway or not gateway) and (state.keda or Addon.KEDA not in addons)
    if wanted is Profile.NODE and not (whole and node_healthy(state, daemons)):
        return None
    return state if control_plane_healthy(state, paths, daemons) else None


def _bed(state: BedState, paths: Paths, progress: Progress) -> Bed:
    kubectl = require(["kubectl"], paths, progress)["kubectl"]
    return Bed(paths.kubeconfig, state.profile, kubectl, paths)


def control_plane_healthy(state: BedState, paths: Paths, daemons: Daemons) -> bool:
    """Whether the control plane was started whole, runs, and answers."""
    started = state.complete or state.profile is Profile.NODE
    api = KubeApi(state.ports.api, paths.pki)

    def ended() -> bool:
        return not all(daemons.running(name) for name in _CONTROL_PLANE_DAEMONS)

    if not started or ended():
        return False
    try:
        # A busy machine answers late: that alone is no reason to take down what others are using.
        wait_until("an answer of the API server", lambda: api.ready() or ended(), _PATIENCE_SECONDS)
    except NotReadyError:
        return False
    return not ended()


def node_healthy(state: BedState, daemons: Daemons) -> bool:
    """Whether the node was started whole and its daemons run."""
    return state.complete and all(daemons.running(name) for name in _NODE_DAEMONS)


def _start_control_plane(paths: Paths, daemons: Daemons, progress: Progress) -> BedState:
    binaries = require(CONTROL_PLANE, paths, progress)
    state = BedState(profile=Profile.CONTROL_PLANE, complete=False, ports=choose_ports(), node_ip=host_address())
    state.save(paths.state)
    progress.say("starting the control plane")
    controlplane.start(paths, state, daemons, binaries, progress)
    return _saved(state.model_copy(update={"complete": True}), paths)


def _add_node(state: BedState, paths: Paths, daemons: Daemons, progress: Progress) -> BedState:
    """Add the node to a running control plane. What fails halfway is found incomplete and cleaned by the next `up`."""
    host.require_packages(SYSTEM_PACKAGES, progress)
    with ThreadPoolExecutor() as pool:
        # The first time both take minutes, and neither needs the other.
        base = pool.submit(ImageStore(paths, progress).base)
        binaries = require((*CONTROL_PLANE, *NODE, *ADDONS), paths, progress)
        base.result()
    state = _saved(state.model_copy(update={"profile": Profile.NODE, "complete": False}), paths)
    progress.say("starting the node")
    node.start(paths, state, daemons, binaries, progress)
    cluster_addons.install(paths, state, daemons, binaries, progress)
    return _saved(state.model_copy(update={"complete": True}), paths)


def _add_gateway(state: BedState, paths: Paths, progress: Progress) -> BedState:
    """Add the gateway where there is an Envoy for this machine; all else of the bed works without it."""
    try:
        envoy = data_plane.envoy_binary()
    except BinaryUnavailableError as error:
        progress.say(f"no gateway: {error}")
        return state
    binaries = require((*CONTROL_PLANE, *NODE, *ADDONS), paths, progress)
    data_plane.install(paths, binaries, envoy, progress)
    return _saved(state.model_copy(update={"gateway": True}), paths)


def _saved(state: BedState, paths: Paths) -> BedState:
    state.save(paths.state)
    return state


def down() -> None:
    """Take the bed down."""
    paths, progress = Paths.default(), Progress()
    with _locked(paths):
        if _by_kind():
            kind.Kind(paths, progress).down()
        else:
            teardown.down(paths, progress)


def status() -> list[str]:
    """What runs, one line each; empty when there is no bed."""
    paths = Paths.default()
    daemons = Daemons(paths.daemons, paths.logs)
    state = load(paths.state)
    if state is None:
        return []
    lines = [f"profile {state.profile}, kubeconfig {paths.kubeconfig}"]
    for record in daemons.records():
        word = "running" if daemons.running(record.name) else "ended"
        lines += [f"{record.name}: {word}, pid {record.pid}"]
    return lines
