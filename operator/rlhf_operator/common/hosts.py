"""Which addresses texts may be sent to: Services of the cluster, and hosts on the operator's list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

# No user part and no backslash: two parsers must not find two hosts in one address.
_AUTHORITY = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])\.?(:[0-9]{1,5})?")
_IN_CLUSTER = (".svc", ".svc.cluster.local")


def why_not_allowed(url: str, allowed_hosts: Sequence[str]) -> str | None:
    """Return why no text may go to the URL, in words that say the way out; None when it may.

    allowed_hosts: exact names, or `*.` and a domain for everything below it.
    """
    authority = urlsplit(url).netloc
    if _AUTHORITY.fullmatch(authority) is None:
        return f"{url[:200]} is no plain address: give http(s)://host[:port]/path, without a user part"
    host = (urlsplit(url).hostname or "").rstrip(".")
    if ("." not in host and ":" not in host) or host.endswith(_IN_CLUSTER):
        return None
    if any(_matches(host, entry.strip().lower()) for entry in allowed_hosts):
        return None
    return (
        f"host {host} is outside the cluster and not on the operator's list: add it to allowedHosts of the chart, "
        "or use a Service of the cluster by its full name (name.namespace.svc)"
    )


def _matches(host: str, entry: str) -> bool:
    return host.endswith(entry[1:]) if entry.startswith("*.") else host == entry
