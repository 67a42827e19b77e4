"""What is sent to a server, and who is trusted: passwords, certificates, and addresses that must not be called."""

from __future__ import annotations

import base64
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from rlhf_operator.common.measurements import BasicAuth, ProblemReason, PrometheusTarget, Value
from rlhf_operator.prometheus.addresses import AllowList
from rlhf_operator.prometheus.client import PrometheusClient
from testbed.pki import Authority

from .liar import FAST, Server, honest, problem


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    target = PrometheusTarget("http://prometheus.invalid:9090")
    async with PrometheusClient(AllowList.of([target.url]), limits=FAST) as client:
        found = problem(await client.round(target, {"it": "x"}))
    assert found.reason in (ProblemReason.UNREACHABLE, ProblemReason.TIMEOUT)


async def test_credentials_are_sent_and_never_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    bearer = PrometheusTarget(server.target.url, bearer="token-4711")
    basic = PrometheusTarget(server.target.url, basic=BasicAuth("jürgen", "geheim"))
    assert "4711" not in repr(bearer)
    assert "geheim" not in repr(basic)
    assert "jürgen" not in repr(basic)
    async with PrometheusClient(AllowList.of([server.target.url]), limits=FAST) as client:
        for target in (bearer, basic, server.target):
            await client.round(target, {})
    sent = [headers.get("Authorization") for _, _, headers in server.requests]
    assert sent == ["Bearer token-4711", f"Basic {base64.b64encode('jürgen:geheim'.encode()).decode()}", None]
    assert "4711" not in caplog.text


async def test_tls_to_a_server_that_only_an_authority_of_its_own_vouches_for(server: Server, tmp_path: Path) -> None:
    Authority(tmp_path).issue("server", "prometheus", hosts=["localhost"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    try:
        async with PrometheusClient(AllowList.of([url]), limits=FAST) as client:
            trusting = PrometheusTarget(url, ca=(tmp_path / "ca.crt").read_text())
            assert (await client.round(trusting, {})).at is not None
            found = problem(await client.round(PrometheusTarget(url), {"it": "x"}))
            assert found.reason is ProblemReason.UNREACHABLE
            assert "certificate is not trusted" in found.message
            broken = PrometheusTarget(url, ca="not PEM")
            assert "not PEM" in problem(await client.round(broken, {"it": "x"})).message
    finally:
        await runner.cleanup()


async def test_an_address_that_is_not_listed_is_never_connected_to(server: Server) -> None:
    async with PrometheusClient(AllowList.of(["http://prometheus.monitoring:9090"]), limits=FAST) as client:
        found = problem(await client.round(server.target, {"it": "x"}))
    assert found.reason is ProblemReason.NOT_ALLOWED
    assert "ANALYSIS_ALLOWED_URLS" in found.message
    assert not server.requests


class Names(AbstractResolver):
    """A DNS server that says what the test wants."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=each,
                port=port,
                family=socket.AF_INET6 if ":" in each else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["fe80::1%lo"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["fd00:ec2::254"],
        ["100.100.100.200"],
        ["0.0.0.0"],  # noqa: S104
        # One good address beside a bad one is no excuse.
        ["127.0.0.1", "169.254.169.254"],
    ],
)
async def test_a_listed_name_that_leads_to_a_metadata_address_is_not_connected_to(
    server: Server, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise AssertionError("a connection was begun")

    target = PrometheusTarget(f"http://prometheus.test:{server.port}")
    async with PrometheusClient(AllowList.of([target.url]), limits=FAST, resolver=Names(addresses)) as client:
        monkeypatch.setattr(aiohttp.connector.aiohappyeyeballs, "start_connection", no_socket)
        found = problem(await client.round(target, {"it": "x"}))
    assert found.reason is ProblemReason.NOT_ALLOWED
    assert not server.requests


async def test_a_name_is_looked_up_again_for_every_connection_and_held_to_the_same_rule(server: Server) -> None:
    target = PrometheusTarget(f"http://prometheus.test:{server.port}")
    names = Names(["127.0.0.1"])

    async def closing(request: web.Request) -> web.StreamResponse:
        response = await honest(request)
        response.force_close()
        return response

    server.everything = closing
    async with PrometheusClient(AllowList.of([target.url]), limits=FAST, resolver=names) as client:
        assert isinstance((await client.round(target, {"it": "x"})).samples["it"], Value)
        names.addresses = ["169.254.169.254"]
        found = problem(await client.round(target, {"it": "x"}))
    assert found.reason is ProblemReason.NOT_ALLOWED
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[2002:a9fe:a9fe::1]"]
)
async def test_a_metadata_address_is_refused_even_when_it_is_listed(host: str) -> None:
    target = PrometheusTarget(f"http://{host}")
    async with PrometheusClient(AllowList.of([target.url]), limits=FAST) as client:
        assert problem(await client.round(target, {"it": "x"})).reason is ProblemReason.NOT_ALLOWED
