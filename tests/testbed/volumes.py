"""A small provisioner for the bed's default StorageClass: folders on the host, ReadWriteMany included.

Runs as a daemon of the bed (`python -m testbed.volumes PORT PKI FOLDER`). A claim of the class gets a folder and a
PersistentVolume; a released volume goes with its folder. Kind and real clusters bring their own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

PROVISIONER = "rlhf.dev/testbed-volumes"
STORAGE_CLASS = "standard"
_PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
_RETRY_SECONDS = 1.0
_WATCH_SECONDS = 300
_LINE_BYTES = 4 << 20  # one watch event is one line
_log = logging.getLogger("volumes")


def storage_class() -> dict[str, Any]:
    """The default StorageClass."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def volume_for(claim: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The PersistentVolume for a claim that waits for one of ours, else None."""
    spec, meta = claim["spec"], claim["metadata"]
    if spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
        return None
    name = f"pvc-{meta['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": STORAGE_CLASS,
            "volumeMode": spec.get("volumeMode", "Filesystem"),
            "hostPath": {"path": str(folder / name), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


def folder_to_remove(volume: dict[str, Any], folder: Path) -> Path | None:
    """The folder of a released volume of ours: only ever a direct child of the pool's folder."""
    ours = volume["metadata"].get("annotations", {}).get(_PROVISIONED_BY) == PROVISIONER
    if not ours or volume.get("status", {}).get("phase") != "Released":
        return None
    path = Path(volume["spec"].get("hostPath", {}).get("path", ""))
    inside = path.parent == folder and path.name == volume["metadata"]["name"]
    return path if inside else None


def make_folder(path: Path) -> None:
    """A folder that any user in a pod may write to: hostPath volumes know no fsGroup."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)


class Provisioner:
    """Answers claims and released volumes, one at a time, as the API server reports them."""

    def __init__(self, session: aiohttp.ClientSession, server: str, folder: Path) -> None:
        self._session = session
        self._server = server
        self._folder = folder

    async def run(self) -> None:
        """Serve for ever."""
        await asyncio.gather(
            self._follow("/api/v1/persistentvolumeclaims", self._claim),
            self._follow("/api/v1/persistentvolumes", self._volume),
        )

    async def _claim(self, claim: dict[str, Any]) -> None:
        volume = volume_for(claim, self._folder)
        if volume is None:
            return
        make_folder(Path(volume["spec"]["hostPath"]["path"]))
        async with self._session.post(f"{self._server}/api/v1/persistentvolumes", json=volume) as response:
            if response.status not in (201, 409):
                _log.error("creating %s: %s", volume["metadata"]["name"], await response.text())

    async def _volume(self, volume: dict[str, Any]) -> None:
        path = folder_to_remove(volume, self._folder)
        if path is None:
            return
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        name = volume["metadata"]["name"]
        async with self._session.delete(f"{self._server}/api/v1/persistentvolumes/{name}") as response:
            if response.status not in (200, 202, 404):
                _log.error("deleting %s: %s", name, await response.text())

    async def _follow(self, path: str, act: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """List, act on each, watch, act on each change; start over when the watch ends or the server is away."""
        while True:
            try:
                async with self._session.get(self._server + path) as response:
                    response.raise_for_status()
                    listed = await response.json()
                for item in listed["items"]:
                    await act(item)
                version = listed["metadata"]["resourceVersion"]
                await self._watch(path, version, act)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                _log.warning("%s: %s", path, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self, path: str, version: str, act: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        async with self._session.get(self._server + path, params=query) as response:
            response.raise_for_status()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    await act(event["object"])
                elif event["type"] == "ERROR":
                    return


async def serve(port: int, pki: Path, folder: Path) -> None:
    """Provision against the API server on this host."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_WATCH_SECONDS + 30)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_LINE_BYTES) as session:
        await Provisioner(session, f"https://127.0.0.1:{port}", folder).run()


def main(arguments: Sequence[str]) -> None:
    """`PORT PKI FOLDER`: the API server's port, the folder of its certificates, the folder for volumes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    port, pki, folder = arguments
    asyncio.run(serve(int(port), Path(pki), Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
