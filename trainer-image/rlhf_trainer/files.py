"""Files that are whole or not there: durable writes and digests. What the files mean lives with their owners."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK = 1 << 20


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_below(directory: Path) -> None:
    """Make every file below a directory durable, and their names."""
    for path in files_below(directory):
        # A name that is gone was another rank's temporary one.
        with contextlib.suppress(FileNotFoundError):
            sync_file(path)
    for folder in {path.parent for path in files_below(directory)} | {directory}:
        sync_directory(folder)


def write_durably(path: Path, data: bytes, before_rename: Callable[[], None] = lambda: None) -> None:
    """Replace `path` by `data`, so that a reader or a crash sees the old content or the new, never a part.

    `before_rename` may raise, and then nothing is replaced.
    """
    # Pods share folders, and each has its own process number 1.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        before_rename()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def files_below(directory: Path) -> Iterator[Path]:
    """Yield every regular file below `directory`, sorted by its relative path."""
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def digest_bytes(data: bytes) -> str:
    """Return `sha256:` and the SHA-256 of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return `sha256:` and the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def digest_tree(directory: Path) -> str:
    """Return one digest over every file below `directory`: relative path, size in bytes, SHA-256, one line each."""
    lines = (
        f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0{digest_file(path)}\n"
        for path in files_below(directory)
    )
    return digest_bytes("".join(lines).encode())
