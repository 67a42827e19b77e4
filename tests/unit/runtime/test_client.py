"""The client against a loopback server that misbehaves on purpose: retries, fences, limits, streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from rlhf_operator.common.reader import ReadFailed, TemplateRejected
from rlhf_operator.common.resources import CONFIGMAPS
from rlhf_operator.errors import (
    ApiError,
    Conflict,
    CredentialsUnusable,
    Fenced,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TimedOut,
    Unreachable,
)
from rlhf_operator.kube.client import KubeClient
from rlhf_operator.kube.credentials import Credentials, from_kubeconfig
from rlhf_operator.prometheus.addresses import AllowList
from rlhf_operator.prometheus.client import PrometheusClient
from rlhf_operator.runtime.reader import CachedReader

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MANIFEST = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}}


class Server:
    """Answers with whatever the test put into `handler`; remembers what was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.handler: Handler | None = None
        self.url = ""

    def answers(self, *answers: web.Response) -> None:
        waiting = list(answers)

        async def handler(request: web.Request) -> web.StreamResponse:
            return waiting.pop(0) if len(waiting) > 1 else _copy(waiting[0])

        self.handler = handler

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        assert self.handler is not None
        return await self.handler(request)


def _copy(response: web.Response) -> web.Response:
    return web.Response(status=response.status, body=response.body, headers=response.headers)


def status(code: int, reason: str = "Because", message: str = "words", **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.Response(
        status=code, text=json.dumps(body), headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def fine(body: Any = None) -> web.Response:
    return web.Response(text=json.dumps(body or {"metadata": {"name": "a"}}))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[KubeClient]:
    async with KubeClient(Credentials(server.url), timeout_seconds=5) as client:
        yield client


async def test_too_many_requests_and_a_busy_server_are_tried_again(server: Server, client: KubeClient) -> None:
    server.answers(status(429, Retry_After="0"), status(503, Retry_After="0"), fine())
    assert (await client.get(CONFIGMAPS, "n", "a"))["metadata"]["name"] == "a"
    assert len(server.requests) == 3


async def test_a_server_that_stays_busy_is_reported_after_five_attempts(server: Server, client: KubeClient) -> None:
    server.answers(status(503, "ServiceUnavailable", Retry_After="0"))
    with pytest.raises(ApiError) as raised:
        await client.get(CONFIGMAPS, "n", "a")
    assert (raised.value.code, raised.value.retriable, len(server.requests)) == (503, True, 5)


@pytest.mark.parametrize(
    ("code", "kind"), [(400, Invalid), (403, Forbidden), (404, NotFound), (409, Conflict), (410, Gone), (422, Invalid)]
)
async def test_a_refusal_is_not_tried_again_and_keeps_the_servers_words(
    server: Server, client: KubeClient, code: int, kind: type[ApiError]
) -> None:
    server.answers(status(code, "Reason", "the words"))
    with pytest.raises(kind, match="the words"):
        await client.create(CONFIGMAPS, MANIFEST)
    assert len(server.requests) == 1


async def test_nothing_is_sent_without_the_lease_but_reads_are(server: Server, client: KubeClient) -> None:
    server.answers(fine())
    client.may_write = lambda: False
    for write in (
        client.create(CONFIGMAPS, MANIFEST),
        client.apply(CONFIGMAPS, MANIFEST),
        client.delete(CONFIGMAPS, "n", "a", "u", "Background"),
        client.replace_status(CONFIGMAPS, "n", "a", "1", {}),
    ):
        with pytest.raises(Fenced):
            await write
    await client.get(CONFIGMAPS, "n", "a")
    assert [method for method, _, _ in server.requests] == ["GET"]


async def test_the_lease_is_asked_for_again_before_each_retry(server: Server, client: KubeClient) -> None:
    server.answers(status(503, Retry_After="0"))
    allowed = iter([True, True, False])
    client.may_write = lambda: next(allowed)
    with pytest.raises(Fenced):
        await client.create(CONFIGMAPS, MANIFEST)
    assert len(server.requests) == 2


async def test_a_silent_server_is_a_time_out_and_a_refusing_one_is_not(server: Server) -> None:
    release = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return fine()

    server.handler = silent
    async with KubeClient(Credentials(server.url)) as client:
        with pytest.raises(TimedOut):
            async for _ in client.watch(CONFIGMAPS, "n", "1", None, timeout_seconds=60, silence_seconds=0.2):
                pass
    release.set()
    async with KubeClient(Credentials("http://127.0.0.1:1")) as client:
        with pytest.raises(Unreachable) as raised:
            async for _ in client.watch(CONFIGMAPS, "n", "1", None, timeout_seconds=60, silence_seconds=5):
                pass
    assert not isinstance(raised.value, TimedOut)


async def test_events_cut_anywhere_come_out_whole(server: Server, client: KubeClient) -> None:
    lines = b"".join(
        json.dumps({"type": "ADDED", "object": {"n": n, "x": "é" * 50}}).encode() + b"\n" for n in range(20)
    )

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(lines), 37):
            await response.write(lines[start : start + 37])
        return response

    server.handler = stream
    seen = []
    async for batch in client.watch(CONFIGMAPS, "n", "1", "a=b", timeout_seconds=60, silence_seconds=5):
        seen += [event["object"]["n"] for event in batch]
    assert seen == list(range(20))
    assert "labelSelector=a%3Db" in server.requests[0][1]


async def test_a_watch_that_is_refused_says_why(server: Server, client: KubeClient) -> None:
    server.answers(status(410, "Expired", "too old resource version"))
    with pytest.raises(Gone, match="too old"):
        async for _ in client.watch(CONFIGMAPS, "n", "1", None, timeout_seconds=60, silence_seconds=5):
            pass


async def test_an_html_page_of_a_proxy_is_no_answer(server: Server, client: KubeClient) -> None:
    server.answers(web.Response(text="<html>login</html>"))
    with pytest.raises(Unreachable, match="proxy"):
        await client.get(CONFIGMAPS, "n", "a")
    server.answers(web.Response(status=403, text="<html>denied</html>"))
    with pytest.raises(Forbidden, match="denied"):
        await client.get(CONFIGMAPS, "n", "a")


async def test_a_rotated_token_is_read_after_a_refusal(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n", encoding="utf-8")
    server.answers(status(401, "Unauthorized"), fine())
    async with KubeClient(Credentials(server.url, token_file=token)) as client:
        with pytest.raises(Forbidden):
            await client.get(CONFIGMAPS, "n", "a")
        token.write_text("new\n", encoding="utf-8")
        await client.get(CONFIGMAPS, "n", "a")
    assert [headers["Authorization"] for _, _, headers in server.requests] == ["Bearer old", "Bearer new"]


async def test_pages_are_followed_to_the_last(server: Server, client: KubeClient) -> None:
    server.answers(
        fine({"metadata": {"continue": "t"}, "items": [{"n": 1}]}), fine({"metadata": {}, "items": [{"n": 2}]})
    )
    assert [item["n"] for item in await client.list_all(CONFIGMAPS, "n")] == [1, 2]
    assert "continue=t" in server.requests[1][1]


async def test_calls_are_counted_by_verb_and_answer(server: Server) -> None:
    seen: list[tuple[str, str, int]] = []
    async with KubeClient(Credentials(server.url), observer=lambda v, r, c, s: seen.append((v, r, c))) as client:
        server.answers(status(429, Retry_After="0"), fine())
        await client.create(CONFIGMAPS, MANIFEST)
    assert seen == [("create", "configmaps", 429), ("create", "configmaps", 200)]


class TestReader:
    """Live reads of controllers."""

    @pytest_asyncio.fixture
    async def reader(self, client: KubeClient) -> AsyncIterator[CachedReader]:
        async with aiohttp.ClientSession() as pods:
            yield CachedReader(client, None, pods, PrometheusClient(AllowList()))  # type: ignore[arg-type]

    async def test_looks_at_the_same_object_in_the_same_moment_share_one_request(
        self, server: Server, reader: CachedReader
    ) -> None:
        server.answers(fine({"metadata": {"name": "a", "managedFields": []}}))
        found = await asyncio.gather(*(reader.fetch(CONFIGMAPS, "n", "a") for _ in range(50)))
        assert len(server.requests) == 1
        assert found[0] == {"metadata": {"name": "a"}}
        assert found[0] is not found[1], "each has its own copy"

    async def test_what_does_not_exist_is_none_and_what_fails_is_unknown(
        self, server: Server, reader: CachedReader
    ) -> None:
        server.answers(status(404))
        assert await reader.fetch(CONFIGMAPS, "n", "gone") is None
        server.answers(status(403, message="you may not"))
        with pytest.raises(ReadFailed, match="you may not") as raised:
            await reader.fetch(CONFIGMAPS, "n", "a")
        assert raised.value.forbidden
        server.answers(fine())
        assert await reader.fetch(CONFIGMAPS, "n", "a") is not None, "a failure is not kept"

    async def test_events_are_those_of_one_object(self, server: Server, reader: CachedReader) -> None:
        server.answers(fine({"metadata": {}, "items": [{"metadata": {"name": "e"}, "note": "n"}]}))
        assert [event["note"] for event in await reader.events_of("n", "uid-1")] == ["n"]
        assert "fieldSelector=regarding.uid" in server.requests[0][1]
        server.answers(status(403, message="you may not"))
        with pytest.raises(ReadFailed, match="you may not"):
            await reader.events_of("n", "uid-1")

    async def test_a_dry_run_gives_the_servers_words(self, server: Server, reader: CachedReader) -> None:
        server.answers(fine())
        await reader.dry_run_create(MANIFEST)
        assert "dryRun=All" in server.requests[0][1]
        server.answers(status(409, "AlreadyExists"))
        await reader.dry_run_create(MANIFEST)
        server.answers(status(422, "Invalid", "spec.x: not like this"))
        with pytest.raises(TemplateRejected, match="not like this") as refused:
            await reader.dry_run_create(MANIFEST)
        assert refused.value.permanent
        server.answers(status(403, "Forbidden", "exceeded quota: jobs"))
        with pytest.raises(TemplateRejected, match="exceeded quota") as full:
            await reader.dry_run_create(MANIFEST)
        assert not full.value.permanent, "a quota may be free again without another spec"
        server.answers(status(500, "InternalError"))
        with pytest.raises(ReadFailed):
            await reader.dry_run_create(MANIFEST)

    async def test_progress_is_bounded_and_never_an_error(self, server: Server, reader: CachedReader) -> None:
        port = int(server.url.rpartition(":")[2])
        server.answers(web.Response(text='{"step": 1}'))
        assert await reader.progress("127.0.0.1", port) == b'{"step": 1}'
        for answer in (
            web.Response(body=b"x" * ((64 << 10) + 1)),
            web.Response(status=500),
            web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        ):
            server.answers(answer)
            assert await reader.progress("127.0.0.1", port) is None
        assert await reader.progress("127.0.0.1", 1) is None
        assert await reader.progress("not an address", 80) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("current-context: x", "not among its contexts"),
        ("clusters: 3", "clusters"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {exec: {command: aws}}}]",
            "logs in by a plugin",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_what_is_wrong_with_it(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CredentialsUnusable, match=words):
        from_kubeconfig(file)


def test_credentials_do_not_show_their_token() -> None:
    assert "secret" not in repr(Credentials("https://h", static_token="secret"))
