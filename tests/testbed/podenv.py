"""The host's Python environment inside pods: the pod template that mounts it, so that nothing is copied or built.

The checkout, the virtual environment and the interpreter appear read-only at the host's own paths; the base image
(`images.ImageStore.base`) is of the host's distribution, so what they link against is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_operator.common.podsecurity import CACHES
from testbed.images import ImageStore
from testbed.paths import Paths
from testbed.progress import Progress

_SYSTEM_PREFIX = Path("/usr")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Byte code and DeepSpeed's compiled operation: made once, kept in the bed's cache, found where our pods look.
_KEPT = {"PYTHONPYCACHEPREFIX": "pycache", "TORCH_EXTENSIONS_DIR": "torch-extensions"}


@dataclass(frozen=True)
class PodEnvironment:
    """What a pod needs to run this checkout's Python."""

    image: str
    env: list[dict[str, str]]
    volumes: list[dict[str, Any]]
    mounts: list[dict[str, Any]]

    def template(self, *containers: str) -> dict[str, Any]:
        """A pod template for the `template` field of our kinds; by default for the trainer's container."""
        entries = [
            {"name": name, "image": self.image, "env": self.env, "volumeMounts": self.mounts}
            for name in containers or ("trainer",)
        ]
        return {"spec": {"containers": entries, "volumes": self.volumes}}

    def pod(self, name: str, command: list[str], namespace: str = "default") -> dict[str, Any]:
        """A plain pod that runs one command once, without privileges and without root."""
        security = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        env = [*self.env, *({"name": name, "value": CACHES[name]} for name in _KEPT)]
        main = {"name": "main", "image": self.image, "command": command, "env": env, "securityContext": security}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "restartPolicy": "Never",
                # A process that is PID 1 and handles no SIGTERM would keep its namespace for half a minute.
                "terminationGracePeriodSeconds": 2,
                "containers": [{**main, "volumeMounts": self.mounts}],
                "volumes": self.volumes,
            },
        }


def pod_environment(
    paths: Paths | None = None, progress: Progress | None = None, image: str | None = None, prefix: Path | None = None
) -> PodEnvironment:
    """A Python environment of this interpreter, for pods of the bed.

    image: a base of the host's distribution; None takes the bed's own. prefix: the environment's folder; None: the one
    that runs this.
    """
    paths = paths or Paths.default()
    image = image or ImageStore(paths, progress or Progress()).base().name
    prepare_shared(paths.shared)
    prefix = prefix or Path(sys.prefix)
    return compose(image, host_folders(prefix), prefix, paths.shared)


def host_folders(prefix: Path | None = None) -> list[Path]:
    """What must be mounted for an environment to run elsewhere: checkout, environment, interpreter."""
    checkout = Path(__file__).resolve().parents[2]
    return folders_for(checkout, prefix or Path(sys.prefix), Path(sys.base_prefix))


def folders_for(checkout: Path, prefix: Path, base_prefix: Path) -> list[Path]:
    """Each folder once, none inside another; the distribution's own interpreter is in the image."""
    wanted = {checkout, prefix, prefix.resolve(), *([] if base_prefix == _SYSTEM_PREFIX else [base_prefix])}
    folders: list[Path] = []
    for folder in sorted(wanted, key=lambda path: (len(path.parts), path)):
        if not any(folder.is_relative_to(known) for known in folders):
            folders.append(folder)
    return folders


def prepare_shared(folder: Path) -> None:
    """The folders for byte code and compiled extensions: every user of every pod may add to them."""
    for path in (folder, *(folder / name for name in _KEPT.values())):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)


def compose(image: str, folders: Sequence[Path], prefix: Path, shared: Path) -> PodEnvironment:
    """Mounts for the folders, read-only at their own paths, and for what is kept between runs (below `shared`)."""
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, folder in enumerate(folders):
        name = f"testbed-python-{number}"
        volumes.append({"name": name, "hostPath": {"path": str(folder), "type": "Directory"}})
        mounts.append({"name": name, "mountPath": str(folder), "readOnly": True})
    # A volume of its own for the caches' parent: the runtime makes mount points as root, and their parents with them.
    volumes.append({"name": "testbed-cache", "emptyDir": {}})
    mounts.append({"name": "testbed-cache", "mountPath": CACHES["XDG_CACHE_HOME"]})
    for variable, name in _KEPT.items():
        volume = f"testbed-{name}"
        volumes.append({"name": volume, "hostPath": {"path": str(shared / name), "type": "Directory"}})
        mounts.append({"name": volume, "mountPath": CACHES[variable]})
    env = [
        {"name": "PATH", "value": f"{prefix / 'bin'}:{_SYSTEM_PATH}"},
        {"name": "VIRTUAL_ENV", "value": str(prefix)},
    ]
    return PodEnvironment(image, env, volumes, mounts)
