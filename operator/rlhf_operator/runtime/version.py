"""The floor under the API server's version, checked once at start."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from rlhf_operator.errors import ClusterTooOld, KubeError
from rlhf_operator.kube.client import KubeClient

logger = logging.getLogger(__name__)

FLOOR = (1, 32)
_RETRY_SECONDS = 2.0


def check_version(version: Mapping[str, Any]) -> str:
    """The server's own name for its version. Raises ClusterTooOld below the floor."""
    name = str(version.get("gitVersion") or "unknown")
    found = re.match(r"v(\d+)\.(\d+)", name)
    if found is None:
        raise ClusterTooOld(f"the API server calls its version {name!r}; Kubernetes {FLOOR[0]}.{FLOOR[1]} is needed")
    if (int(found[1]), int(found[2])) < FLOOR:
        raise ClusterTooOld(f"Kubernetes {name}; the operator needs {FLOOR[0]}.{FLOOR[1]} or newer")
    return name


async def wait_for_server(client: KubeClient) -> str:
    """Ask until the server answers. Raises ClusterTooOld."""
    while True:
        try:
            return check_version(await client.raw("/version"))
        except KubeError as error:
            logger.warning("the API server does not answer: %s; trying again", error)
            await asyncio.sleep(_RETRY_SECONDS)
