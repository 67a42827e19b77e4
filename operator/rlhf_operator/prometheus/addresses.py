"""Which addresses may be called: the allow-list by URL, and what a name may resolve to. Sends nothing itself."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_QUERY_PATH = "api/v1/query"
_LONGEST_URL = 2048
# Clouds' metadata and host services that are not link-local: AWS, Alibaba, Azure, Oracle.
_METADATA = frozenset(
    ipaddress.ip_address(each) for each in ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotAllowed(ValueError):
    """An address that must not be called. The message tells which and why."""


class AddressRefused(OSError):
    """A name resolved to an address that must not be called."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """One entry of the allow-list. Compared by parts: `http://a:9090` never admits `http://a:90909` or `http://a.b`."""

    scheme: str
    host: str
    port: int
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Raises NotAllowed for what is no plain http or https URL."""
        url = _plain(text)
        return cls(url.scheme, str(url.raw_host), int(url.port or 0), _segments(url))

    def admits(self, other: Prefix) -> bool:
        """Whether an address lies at or below this one."""
        return (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port) and (
            other.segments[: len(self.segments)] == self.segments
        )


@dataclass(frozen=True, slots=True)
class AllowList:
    """The addresses that analyses may name."""

    prefixes: tuple[Prefix, ...] = ()

    @classmethod
    def of(cls, urls: Iterable[str]) -> AllowList:
        """From URLs; empty ones are left out. Raises NotAllowed."""
        return cls(tuple(Prefix.parse(url) for url in urls if url))

    def query_url(self, server: str) -> URL:
        """Where a server's instant queries go. Raises NotAllowed."""
        wanted = Prefix.parse(server)
        if not any(prefix.admits(wanted) for prefix in self.prefixes):
            raise NotAllowed(
                f"{server} is not among the addresses that analyses may call; an administrator adds it to "
                "RLHF_OPERATOR_ANALYSIS_ALLOWED_URLS"
            )
        try:
            literal = ipaddress.ip_address(wanted.host)
        except ValueError:
            pass
        else:
            why = refused(literal)
            if why is not None:
                raise NotAllowed(f"{server}: {why} is never called")
        base = _plain(server)
        return base.with_path("/".join(("", *wanted.segments, _QUERY_PATH)))


def refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Why no analysis may call this IP address, whatever the allow-list says; None when it may."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and (why := refused(inner)) is not None:
            return why
    if address.is_link_local:
        return "a link-local address"
    if address in _METADATA:
        return "a cloud's metadata address"
    # Of IPv6, ::1 and NAT64 count as reserved too.
    if address.is_multicast or address.is_unspecified or (address.version == 4 and address.is_reserved):
        return "an address that is no server's"
    return None


class CheckedResolver(AbstractResolver):
    """Resolves names, and refuses those that lead where nobody may call.

    What it returns is what is connected to: between the check and the connection no second look-up happens.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Every address of the name; AddressRefused when one of them must not be called."""
        found = await self._inner.resolve(host, port, family)
        for each in found:
            # A scope id (fe80::1%eth0) belongs to link-local addresses alone; ip_address takes it.
            why = refused(ipaddress.ip_address(each["host"]))
            if why is not None:
                raise AddressRefused(why)
        return found

    async def close(self) -> None:
        """Give back what the inner resolver holds."""
        await self._inner.close()


def _plain(text: str) -> URL:
    """A URL without anything by which two readers could understand it differently."""
    if len(text) > _LONGEST_URL:
        raise NotAllowed(f"a URL of {len(text)} characters is too long")
    if any(letter in text for letter in "\\%?#") or any(letter <= " " or letter >= "\x7f" for letter in text):
        raise NotAllowed(f"{_shown(text)}: a plain URL has no query, fragment, escapes or spaces")
    try:
        url = URL(text, encoded=True)
        host, port = url.raw_host, url.port
    except ValueError:
        raise NotAllowed(f"{_shown(text)} is no URL") from None
    if url.scheme not in ("http", "https") or not host or not port:
        raise NotAllowed(f"{_shown(text)}: http:// or https:// and a host are needed")
    if url.raw_user is not None or url.raw_password is not None:
        raise NotAllowed(f"{_shown(text)}: user name and password belong into a Secret, not into the URL")
    if any(segment in ("", ".", "..") for segment in _segments(url)):
        raise NotAllowed(f"{_shown(text)}: the path has empty or dotted parts")
    return url.with_host(host.lower())


def _segments(url: URL) -> tuple[str, ...]:
    path = url.raw_path.strip("/") if url.raw_path.count("/") <= 1 else url.raw_path[1:].removesuffix("/")
    return tuple(path.split("/")) if path else ()


def _shown(text: str) -> str:
    """The address without what stands before an @."""
    scheme, mark, rest = text[:200].partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else rest or scheme.rpartition("@")[2]
