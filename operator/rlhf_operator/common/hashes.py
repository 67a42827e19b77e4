"""Digests of content. Names made from them live in names.py."""

from __future__ import annotations

import hashlib


def sha256_of(data: bytes) -> str:
    """Return `sha256:` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def short(digest: str) -> str:
    """Return the first 12 hex digits of a digest: enough for a name, too few for an identity."""
    return digest.removeprefix("sha256:")[:12]
