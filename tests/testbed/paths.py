"""Where the test bed keeps things: one cache folder by version, one state folder for the running bed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def cache_root() -> Path:
    """The project's cache folder (`$XDG_CACHE_HOME/rlhf-operator`)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "rlhf-operator"


@dataclass(frozen=True)
class Paths:
    """The folders of one bed. Everything under `bed` goes with `down`; everything else is a cache."""

    root: Path

    @classmethod
    def default(cls) -> Paths:
        """The folders below the user's cache."""
        return cls(cache_root())

    @property
    def tools(self) -> Path:
        """Binaries: tools/NAME/VERSION/NAME."""
        return self.root / "tools"

    @property
    def images(self) -> Path:
        """OCI archives and what they are made from."""
        return self.root / "images"

    @property
    def containerd(self) -> Path:
        """The store of containerd, kept so that images are imported once."""
        return self.root / "containerd"

    @property
    def shared(self) -> Path:
        """Writable by pods: Python's byte code and compiled extensions, kept between runs."""
        return self.root / "shared"

    @property
    def lock(self) -> Path:
        """Held by whoever changes the bed."""
        return self.root / "bed.lock"

    @property
    def bed(self) -> Path:
        """The running bed's state."""
        return self.root / "bed"

    @property
    def state(self) -> Path:
        """What runs: profile, ports, addresses."""
        return self.bed / "bed.json"

    @property
    def kubeconfig(self) -> Path:
        """The admin's kubeconfig."""
        return self.bed / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.bed / "pki"

    @property
    def kubeconfigs(self) -> Path:
        """The components' kubeconfigs."""
        return self.bed / "kubeconfigs"

    @property
    def logs(self) -> Path:
        """One log per daemon."""
        return self.bed / "logs"

    @property
    def daemons(self) -> Path:
        """One record per daemon that was started: pid and start time."""
        return self.bed / "daemons"

    @property
    def volumes(self) -> Path:
        """The folders behind the pool of PersistentVolumes."""
        return self.bed / "volumes"

    @property
    def run(self) -> Path:
        """Sockets and runtime state."""
        return self.bed / "run"

    @property
    def containerd_socket(self) -> Path:
        """The socket of the bed's containerd."""
        return self.run / "containerd.sock"
