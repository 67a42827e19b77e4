"""Whether applying a manifest would change a live object: pure comparisons of JSON. No requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rlhf_operator.kube.store import OwnFields


def is_applied(manifest: Mapping[str, Any], live: Mapping[str, Any], own: Sequence[OwnFields]) -> bool:
    """Whether live holds every value of the manifest, and no field that we once set and no longer want.

    own: our entries in managedFields. False is safe: the server then finds out by itself.
    """
    if not own or not holds(live, manifest):
        return False
    return all(wants(manifest, entry.fields) for entry in own)


def drops_fields(manifest: Mapping[str, Any], own: Sequence[OwnFields]) -> bool:
    """Whether the manifest lacks something that we set by creating the object: an apply alone would leave it there."""
    return any(not entry.applied and not wants(manifest, entry.fields) for entry in own)


def holds(live: Any, wanted: Any) -> bool:
    """Whether live has every value of wanted. What the server added, defaults for one, does not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(k in live and holds(live[k], v) for k, v in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not isinstance(live, Sequence) or isinstance(live, str) or len(live) != len(wanted):
            return False
        return all(holds(mine, theirs) for mine, theirs in zip(live, wanted, strict=True))
    return bool(live == wanted) and isinstance(live, bool) == isinstance(wanted, bool)


def wants(wanted: Any, fields: Mapping[str, Any]) -> bool:
    """Whether each field in a `fieldsV1` set still occurs in wanted (structured-merge-diff's notation)."""
    for path, below in fields.items():
        if path == ".":
            continue
        kind, _, name = path.partition(":")
        if kind == "f":
            if not isinstance(wanted, Mapping) or name not in wanted:
                return False
            found: Any = wanted[name]
        else:
            found = _item(wanted, kind, name)
            if found is None:
                return False
        if below and not wants(found, below):
            return False
    return True


def _item(wanted: Any, kind: str, name: str) -> Any:
    """The list element that `k:{keys}`, `v:value` or `i:index` speaks of; None when there is none."""
    if not isinstance(wanted, Sequence) or isinstance(wanted, str):
        return None
    if kind == "i":
        return wanted[int(name)] if int(name) < len(wanted) else None
    sought = orjson.loads(name)
    if kind == "v":
        return sought if sought in wanted else None
    for item in wanted:
        # A key field that the manifest leaves to its default is in the server's key all the same.
        if isinstance(item, Mapping) and all(item.get(k, v) == v for k, v in sought.items()):
            return item
    return None
