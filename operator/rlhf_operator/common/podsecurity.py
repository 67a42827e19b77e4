"""The pod defaults that every pod of ours shares: the restricted security profile and the only writable places."""

from __future__ import annotations

from typing import Any

RUN_AS = 65532
"""User and group of every process of ours; fsGroup makes claims writable for it."""

WRITABLE = {"HOME": "/home/rlhf", "TMPDIR": "/tmp"}  # noqa: S108 - a volume of the pod's own
"""Environment variable → the emptyDir it points to. Compile caches lie below HOME."""

CACHES = {
    "XDG_CACHE_HOME": "/home/rlhf/.cache",
    "HF_HOME": "/home/rlhf/.cache/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": "/home/rlhf/.cache/inductor",
    "TRITON_CACHE_DIR": "/home/rlhf/.cache/triton",
    "TORCH_EXTENSIONS_DIR": "/home/rlhf/.cache/torch_extensions",
    "PYTHONPYCACHEPREFIX": "/home/rlhf/.cache/pycache",
}


def pod_security() -> dict[str, Any]:
    """Return the pod's securityContext."""
    return {
        "runAsNonRoot": True,
        "runAsUser": RUN_AS,
        "runAsGroup": RUN_AS,
        "fsGroup": RUN_AS,
        # A volume of terabytes is not walked at every start when its root already fits.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Return the container's securityContext."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def scratch_volumes() -> list[dict[str, Any]]:
    """Return the emptyDirs behind HOME, TMPDIR and /dev/shm; the last in memory, where processes share tensors."""
    return [
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]


def scratch_mounts() -> list[dict[str, Any]]:
    """Return the mounts of `scratch_volumes`."""
    return [
        {"name": "home", "mountPath": WRITABLE["HOME"]},
        {"name": "tmp", "mountPath": WRITABLE["TMPDIR"]},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]


def scratch_env() -> list[dict[str, str]]:
    """Return the environment that sends every cache into them."""
    return [{"name": name, "value": path} for name, path in (WRITABLE | CACHES).items()]
