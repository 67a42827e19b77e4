"""What runs, as one small file: read and written whole."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from testbed.errors import InvalidStateError


class Profile(StrEnum):
    """How much of a cluster runs. NODE holds everything that CONTROL_PLANE does."""

    CONTROL_PLANE = "control-plane"
    NODE = "node"

    def covers(self, wanted: Profile) -> bool:
        """Whether a bed of this profile serves who wants the other."""
        return self is Profile.NODE or wanted is Profile.CONTROL_PLANE


class Ports(BaseModel):
    """The bed's own ports on the host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: int
    etcd: int
    etcd_peer: int


class BedState(BaseModel):
    """The running bed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal[1] = 1
    profile: Profile
    complete: bool
    gateway: bool = False
    keda: bool = False
    ports: Ports
    node_ip: str

    def save(self, path: Path) -> None:
        """Write in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(self.model_dump_json(indent=1))
        os.replace(draft, path)


def load(path: Path) -> BedState | None:
    """The recorded bed, or None. Raises InvalidStateError for a file that this version can't read."""
    if not path.exists():
        return None
    try:
        return BedState.model_validate_json(path.read_text())
    except ValidationError as error:
        raise InvalidStateError(f"{path} is not of this version; run `python -m testbed down` once") from error


def choose_ports() -> Ports:
    """The usual ports where they are free, others where not."""
    chosen: list[int] = []
    for preferred in (16443, 12379, 12380):
        chosen.append(preferred if _is_free(preferred) else _any_free(chosen))
    return Ports(api=chosen[0], etcd=chosen[1], etcd_peer=chosen[2])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


def _any_free(taken: list[int]) -> int:
    while True:
        with closing(socket.socket()) as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port not in taken:
            return port


def host_address() -> str:
    """The host's first IPv4 address that is not loopback: what pods reach the API server by."""
    ours = ("lo", "cni", "veth", "docker", "br-")
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        if name.startswith(ours):
            continue
        for address in addresses:
            if address.family == socket.AF_INET:
                return str(address.address)
    return "127.0.0.1"
