"""How our images and the host's Python get into a cluster, whoever's it is: the bed's own, kind's, or a given one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed import serverenv
from testbed.bed import Bed, Origin
from testbed.containerd import Ctr
from testbed.dockerfiles import OPERATOR, Builder, Dockerfile
from testbed.errors import BedError
from testbed.images import ImageStore
from testbed.kind import Kind
from testbed.podenv import pod_environment
from testbed.progress import Progress


def load_image(bed: Bed, dockerfile: Dockerfile = OPERATOR, progress: Progress | None = None) -> str:
    """The name by which the cluster's pods find one of our images.

    On a given cluster it must be there already: `TESTBED_IMAGE_OPERATOR` (TRAINER, SERVER) names it.
    """
    progress = progress or Progress()
    match bed.origin:
        case Origin.OWN:
            return Builder(bed.paths, progress).load(dockerfile)
        case Origin.KIND:
            return Kind(bed.paths, progress).load(dockerfile)
        case Origin.GIVEN:
            variable = f"TESTBED_IMAGE_{dockerfile.name.upper()}"
            if name := os.environ.get(variable):
                return name
            raise BedError(f"a given cluster can't be loaded with images: push one and name it in {variable}")


def unload_image(bed: Bed, name: str) -> None:
    """Free what a large image takes in our own bed, once nothing runs it; elsewhere it is not ours to free."""
    if bed.origin is Origin.OWN:
        Builder(bed.paths, Progress()).unload(name)


def pod_template(bed: Bed, container: str = "trainer", progress: Progress | None = None) -> dict[str, Any] | None:
    """The pod template that mounts the host's Python; None on a given cluster, whose nodes don't have it."""
    return _template(bed, (container,), None, progress or Progress())


def server_template(
    bed: Bed, containers: Sequence[str] = ("server", "judge"), progress: Progress | None = None
) -> dict[str, Any] | None:
    """The pod template that mounts vLLM's Python into a RewardModel's serving pods; None on a given cluster.

    containers: ("judge",) for a version made of graders, whose pods have no engine.
    """
    progress = progress or Progress()
    if bed.origin is Origin.GIVEN:
        return None
    return _template(bed, containers, serverenv.ensure(bed.paths, progress), progress)


def _template(bed: Bed, containers: Sequence[str], prefix: Path | None, progress: Progress) -> dict[str, Any] | None:
    match bed.origin:
        case Origin.OWN:
            # A bed that has been up since before the base's recipe changed has only the former one.
            Ctr(bed.paths).import_images([ImageStore(bed.paths, progress).base()], progress)
            return pod_environment(bed.paths, progress, prefix=prefix).template(*containers)
        case Origin.KIND:
            image = Kind(bed.paths, progress).load_base()
            return pod_environment(bed.paths, progress, image, prefix).template(*containers)
        case Origin.GIVEN:
            return None
