"""Digests of bytes, files and whole directories."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def digest_bytes(data: bytes) -> str:
    """`sha256:` and the SHA-256 of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """`sha256:` and the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def digest_tree(directory: Path) -> str:
    """`sha256:` over one line per file, sorted by path; symbolic links are followed, as the loader does."""
    lines = (
        f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0"
        f"{digest_file(path).removeprefix('sha256:')}\n"
        for path in sorted(path for path in directory.rglob("*") if path.is_file())
    )
    return digest_bytes("".join(lines).encode())
