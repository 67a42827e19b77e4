"""A namespace per test on the shared control plane, kinds made for tests, and operator processes that serve them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

import testbed
from opkit.api import Api
from opkit.process import OperatorProcess
from opkit.widgets import GADGETS, WIDGETS, crd

# Short enough to wait for, long enough for a machine that is busy.
SETTINGS = {
    "LEASE_DURATION_SECONDS": "6",
    "LEASE_RENEW_DEADLINE_SECONDS": "4",
    "LEASE_RETRY_SECONDS": "1",
    "LOG_LEVEL": "DEBUG",
}

StartOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def admin() -> Iterator[Api]:
    """The administrator of the test bed."""
    with closing(Api(testbed.ensure("control-plane").kubeconfig)) as api:
        for resource in (WIDGETS, GADGETS):
            api.install_crd(crd(resource))
        yield api


@pytest.fixture
def namespace(admin: Api) -> Iterator[str]:
    """A namespace of this test's own."""
    with admin.namespace("runtime") as name:
        yield name


@pytest.fixture
def start(admin: Api, namespace: str, tmp_path: Path) -> Iterator[StartOperator]:
    """Start operator processes that serve this test's namespace; killed at the end, their logs free of tracebacks."""
    with ExitStack() as stack:

        def start(
            name: str = "operator",
            *,
            kinds: str = "Widget",
            kubeconfig: Path | None = None,
            environment: Mapping[str, str] | None = None,
            **settings: str,
        ) -> OperatorProcess:
            process = OperatorProcess(
                tmp_path / name,
                kubeconfig or admin.kubeconfig,
                command=(sys.executable, "-m", "opkit.widgets"),
                settings={**SETTINGS, "NAMESPACES": namespace, "LEASE_NAMESPACE": namespace, **settings},
                environment={"WIDGET_KINDS": kinds, **(environment or {})},
            )
            stack.enter_context(process)
            stack.enter_context(process.sound())
            return process

        yield start
