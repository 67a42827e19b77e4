"""A real Prometheus that scrapes what a test exposes, one behind TLS and a password, and one that lies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from opkit.process import wait_for
from opkit.prometheus import RunningPrometheus, exposed, prometheus
from rlhf_operator.common.measurements import BasicAuth, PrometheusTarget
from testbed.pki import Authority

from .liar import Server

PASSWORD = BasicAuth("analyst", "correct horse")
# bcrypt of the password above, at the lowest cost.
_PASSWORD_HASH = "$2b$04$khCk44fe2EbtxByyNOUZNecW8g84QjSHvr2OkRtPbBpuakVjXBnOy"
ALWAYS = """
answered_total 42
ratio_parts{part="zero"} 0
several{replica="a"} 1
several{replica="b"} 2
not_a_number NaN
"""


@dataclass
class RealPrometheus:
    """A running server and what is exposed to it beside ALWAYS."""

    server: RunningPrometheus
    lines: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> PrometheusTarget:
        return PrometheusTarget(self.server.url)

    def holds(self, query: str) -> bool:
        return self.server.holds(query)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    """Scrapes every second."""
    lines: dict[str, str] = {}

    def exposition() -> str:
        return ALWAYS + "".join(f"{name} {value}\n" for name, value in lines.items())

    with exposed(exposition) as port, prometheus(tmp_path_factory.mktemp("prometheus"), port) as server:
        wait_for("the first scrape", lambda: server.holds("answered_total"))
        yield RealPrometheus(server, lines)


@dataclass(frozen=True)
class GuardedPrometheus:
    """A server behind TLS of an authority of its own, and a password."""

    port: int
    ca: str

    @property
    def target(self) -> PrometheusTarget:
        return PrometheusTarget(f"https://localhost:{self.port}", ca=self.ca, basic=PASSWORD)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedPrometheus]:
    folder = tmp_path_factory.mktemp("guarded")
    Authority(folder).issue("server", "prometheus", hosts=["localhost"])
    web: dict[str, Any] = {
        "tls_server_config": {"cert_file": str(folder / "server.crt"), "key_file": str(folder / "server.key")},
        "basic_auth_users": {PASSWORD.username: _PASSWORD_HASH},
    }
    with prometheus(folder, web=web) as server:
        yield GuardedPrometheus(server.port, (folder / "ca.crt").read_text(encoding="utf-8"))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()
