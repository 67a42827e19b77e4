"""The digest of a directory's content: relative path, size and SHA-256 of every regular file."""

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def digest_tree(directory: Path) -> str:
    """`sha256:` over one line per file, sorted by path; symbolic links are followed, as the loader does."""
    lines = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        lines.append(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0{digest.hexdigest()}\n")
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
