"""Asks a Prometheus a round of instant queries: one evaluation time, bounded time, size and number of requests."""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from rlhf_operator.common.measurements import Problem, ProblemReason, PrometheusTarget, Round, Sample, Value
from rlhf_operator.prometheus.addresses import AddressRefused, AllowList, CheckedResolver, NotAllowed
from rlhf_operator.prometheus.answers import sample

_ANSWER_LIMIT_BYTES = 1 << 20
_ATTEMPTS = 3
_RETRIED = frozenset({429, 502, 503, 504})
_FIRST_WAIT_SECONDS = 0.2
# How far back an empty answer is looked for, and how densely: thirty evaluations.
_STALE_SECONDS = 900
_STALE_STEP_SECONDS = 30
# Rollouts that find the same server down don't each wait for it: workers are few.
_DOWN_SECONDS = 5.0
_DOWN_LIMIT = 256

Observer = Callable[[str, float], None]
"""Told of every query: `Value` or the problem's reason, and the seconds it took, retries included."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one round may take."""

    request_seconds: float = 10.0
    """One query with its retries."""
    round_seconds: float = 20.0
    """All queries of a round."""
    connect_seconds: float = 5.0
    concurrent: int = 8
    """Queries of one round at a time."""
    rounds: int = 8
    """Rounds at a time, of all targets together. Each holds one of the operator's workers: a slow Prometheus must not
    hold them all."""
    turn_seconds: float = 2.0
    """How long a round waits for its turn before it is given up as timed out."""


@dataclass(frozen=True, slots=True)
class _Server:
    """A target that may be called, as requests need it."""

    url: URL
    headers: Mapping[str, str]
    tls: ssl.SSLContext | bool


class PrometheusClient:
    """One connection pool for every Prometheus that analyses ask.

    resolver: looks names up; the system's when None. What it finds is checked before it is connected to.
    """

    def __init__(
        self,
        allowed: AllowList,
        *,
        limits: Limits | None = None,
        observer: Observer = lambda outcome, seconds: None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._allowed = allowed
        self._limits = limits or Limits()
        self._observer = observer
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(self._limits.rounds)
        self._down: dict[PrometheusTarget, tuple[float, Problem]] = {}
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._resolver or aiohttp.ThreadedResolver()),
            # Every new connection is made to an address that was just checked.
            use_dns_cache=False,
            limit=64,
            limit_per_host=16,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            # A small compressed answer may be a huge one.
            auto_decompress=False,
            headers={"User-Agent": "rlhf-operator", "Accept": "application/json", "Accept-Encoding": "identity"},
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut every connection; queries in flight end as Unreachable."""
        if self._session is not None:
            await self._session.close()

    async def round(self, target: PrometheusTarget, queries: Mapping[str, str]) -> Round:
        """All queries at the server's own present. Raises nothing: what went wrong is each query's sample."""
        try:
            server = _server(self._allowed, target)
        except NotAllowed as error:
            return _nothing(queries, Problem(ProblemReason.NOT_ALLOWED, str(error)))
        except (ssl.SSLError, ValueError, TypeError):
            return _nothing(queries, Problem(ProblemReason.UNREACHABLE, "the certificates to trust (ca) are not PEM"))
        try:
            async with asyncio.timeout(self._limits.turn_seconds):
                await self._turns.acquire()
        except TimeoutError:
            words = f"{self._limits.rounds} other rounds were under way: a Prometheus that analyses ask is slow"
            return _nothing(queries, Problem(ProblemReason.TIMEOUT, words))
        try:
            return await self._round(target, server, queries)
        finally:
            self._turns.release()

    async def _round(self, target: PrometheusTarget, server: _Server, queries: Mapping[str, str]) -> Round:
        deadline = asyncio.get_running_loop().time() + self._limits.round_seconds
        now = await self._now(target, server, deadline)
        if isinstance(now, Problem):
            return _nothing(queries, now)
        limit = asyncio.Semaphore(self._limits.concurrent)
        # Metrics share what they count: the same words are asked once.
        texts = list(dict.fromkeys(queries.values()))
        samples = await asyncio.gather(*(self._judged(server, text, now, limit, deadline) for text in texts))
        answers = dict(zip(texts, samples, strict=True))
        return Round(datetime.fromtimestamp(now, UTC), {name: answers[text] for name, text in queries.items()})

    async def _now(self, target: PrometheusTarget, server: _Server, deadline: float) -> float | Problem:
        """The server's time in Unix seconds: the operator's own clock may be minutes off."""
        failed_at, problem = self._down.get(target, (float("-inf"), None))
        if problem is not None and time.monotonic() - failed_at < _DOWN_SECONDS:
            return problem
        self._down.pop(target, None)
        answer = await self._ask(server, "time()", None, deadline)
        if isinstance(answer, Value):
            if 0 < answer.value < 1e11:
                return round(answer.value, 3)
            return Problem(ProblemReason.NOT_PROMETHEUS, "the server's answer to time() is no time")
        if answer.reason in (ProblemReason.UNREACHABLE, ProblemReason.TIMEOUT):
            if len(self._down) >= _DOWN_LIMIT:
                self._down.clear()
            self._down[target] = (time.monotonic(), answer)
        return answer

    async def _judged(
        self, server: _Server, query: str, at: float, limit: asyncio.Semaphore, deadline: float
    ) -> Sample:
        """One query; an empty answer is looked into once more, for what vanished is not what never was."""
        async with limit:
            answer = await self._ask(server, query, at, deadline)
            if not isinstance(answer, Problem) or answer.reason is not ProblemReason.EMPTY:
                return answer
            # The query may end in a comment: the bracket stands on a line of its own.
            before = f"count(present_over_time((\n{query}\n)[{_STALE_SECONDS}s:{_STALE_STEP_SECONDS}s]))"
            if isinstance(await self._ask(server, before, at, deadline), Value):
                return Problem(
                    ProblemReason.STALE,
                    f"no series now, but within the last {_STALE_SECONDS // 60} minutes: did what is scraped go away?",
                )
            return answer

    async def _ask(self, server: _Server, query: str, at: float | None, deadline: float) -> Sample:
        """One query with its retries, within its time."""
        started = time.monotonic()
        until = min(deadline, asyncio.get_running_loop().time() + self._limits.request_seconds)
        try:
            async with asyncio.timeout_at(until):
                answer = await self._attempts(server, query, at)
        except TimeoutError:
            answer = Problem(
                ProblemReason.TIMEOUT, f"{_shown(server)} gave no answer within {time.monotonic() - started:.0f} s"
            )
        outcome = answer.reason.value if isinstance(answer, Problem) else "Value"
        self._observer(outcome, time.monotonic() - started)
        return answer

    async def _attempts(self, server: _Server, query: str, at: float | None) -> Sample:
        """Queries change nothing: a lost one is sent again."""
        for attempt in range(1, _ATTEMPTS + 1):
            answer, again = await self._send(server, query, at)
            if not again or attempt == _ATTEMPTS:
                return answer
            await asyncio.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * (1 + 0.2 * self._random.random()))
        raise AssertionError("the last attempt returns")

    async def _send(self, server: _Server, query: str, at: float | None) -> tuple[Sample, bool]:
        """One request: its sample, and whether sending it again may help."""
        if self._session is None or self._session.closed:
            return Problem(ProblemReason.UNREACHABLE, "the operator is stopping"), False
        form = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        try:
            # POST: queries may be longer than URLs, and no cache answers it.
            async with self._session.post(
                server.url,
                data=form,
                headers=server.headers,
                ssl=server.tls,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_seconds),
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT_BYTES:
                        words = f"more than {_ANSWER_LIMIT_BYTES >> 20} MiB of answer: aggregate, for example by sum()"
                        return Problem(ProblemReason.TOO_LARGE, words), False
                answer = sample(response.status, bytes(body), at)
                timed_out = isinstance(answer, Problem) and answer.reason is ProblemReason.TIMEOUT
                return answer, response.status in _RETRIED and not timed_out
        except aiohttp.ClientError as error:
            return _failed(server, error)
        except aiohttp.http_exceptions.HttpProcessingError:
            return Problem(ProblemReason.NOT_PROMETHEUS, f"{_shown(server)} does not speak HTTP as it should"), False
        except (OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            return Problem(ProblemReason.UNREACHABLE, f"{_shown(server)}: {type(error).__name__}"), False


def _nothing(queries: Mapping[str, str], problem: Problem) -> Round:
    return Round(None, dict.fromkeys(queries, problem))


def _server(allowed: AllowList, target: PrometheusTarget) -> _Server:
    headers = {}
    if target.bearer is not None:
        headers["Authorization"] = f"Bearer {target.bearer}"
    elif target.basic is not None:
        headers["Authorization"] = aiohttp.encode_basic_auth(target.basic.username, target.basic.password, "utf-8")
    return _Server(allowed.query_url(target.url), headers, True if target.ca is None else _trusting(target.ca))


@functools.lru_cache(maxsize=64)
def _trusting(ca: str) -> ssl.SSLContext:
    """The system's authorities and these. Raises SSLError, ValueError or TypeError for what is not PEM."""
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=ca)
    return context


def _failed(server: _Server, error: aiohttp.ClientError) -> tuple[Problem, bool]:
    """The problem behind a request that got no whole answer, in words without anything the server sent."""
    where = _shown(server)
    match error:
        case aiohttp.ClientConnectorDNSError(os_error=AddressRefused() as refused):
            words = f"{where}: its name leads to {refused}, which is never called"
            return Problem(ProblemReason.NOT_ALLOWED, words), False
        case aiohttp.ClientConnectorDNSError():
            return Problem(ProblemReason.UNREACHABLE, f"{where}: its name can't be resolved"), True
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as why):
            words = f"{where}: its certificate is not trusted: {why.verify_message}"
            return Problem(ProblemReason.UNREACHABLE, words), False
        case aiohttp.ClientConnectorSSLError():
            return Problem(ProblemReason.UNREACHABLE, f"{where}: no TLS connection; is it an http:// address?"), False
        case aiohttp.ClientConnectorError(os_error=reason):
            return Problem(ProblemReason.UNREACHABLE, f"{where}: no connection ({type(reason).__name__})"), True
        case aiohttp.ClientResponseError():
            return Problem(ProblemReason.NOT_PROMETHEUS, f"{where} does not speak HTTP as it should"), False
        case _:
            return Problem(ProblemReason.UNREACHABLE, f"{where}: the connection broke ({type(error).__name__})"), True


def _shown(server: _Server) -> str:
    return str(server.url.origin())
