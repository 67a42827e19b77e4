"""One control plane for all tests that play the rest of the cluster: scheduler, kubelet, gateway, Kueue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from opkit import kueue
from opkit.api import Api
from opkit.kubelet import make_node
from opkit.plane import private_plane
from testbed.bed import Bed
from testbed.gateway import api_crds
from testbed.paths import Paths
from testbed.progress import Progress


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """A control plane beside the shared bed, with every API that the operator asks for and one node, `node-a`.

    Operators on it are their module's at most: one that goes on would serve the namespaces of tests that kill their
    own, or have none.
    """
    with private_plane() as plane:
        with closing(Api(plane.kubeconfig)) as api:
            api.install_our_crds()
            for crd in (*api_crds(Paths.default(), Progress()), kueue.CRD):
                api.install_crd(crd)
            make_node(api, "node-a")
        yield plane
