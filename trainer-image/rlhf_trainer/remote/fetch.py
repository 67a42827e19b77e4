"""`rlhf_trainer fetch`: brings what a plan names from hubs and object stores onto the storage, once in its life.

The launcher of pod 0 runs it before any rank starts, in a process of its own: its environment alone lets a library
reach a hub, and its threads and memory end with it.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rlhf_operator.api.data import STORE_KEYS, TOKEN_KEY
from rlhf_operator.api.plan import PlanFetch, PlanSource, RunPlan, SourceContent
from rlhf_scoring.artifact import MANIFEST_FILE, verify
from rlhf_trainer.data.sources import Source, confined
from rlhf_trainer.errors import Crash
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.files import digest_tree, sync_below, sync_directory, write_durably
from rlhf_trainer.outcome import leave_outcome, outcome_of
from rlhf_trainer.plans import read_plan
from rlhf_trainer.progress import say

from .fetched import NOTE_FILE, Note, missing
from .listing import Entry, chosen
from .trouble import Place, Transient


class Remote(Protocol):
    """A place outside."""

    def resolve(self) -> str | None:
        """What does not move: a commit; None where there is no such thing."""
        ...

    def entries(self, revision: str | None) -> list[Entry]:
        """Its files."""
        ...

    def read(self, entry: Entry, revision: str | None) -> Iterator[bytes]:
        """The bytes of one. Raises Transient."""
        ...


def main(arguments: argparse.Namespace) -> int:
    """Fetch everything; the exit code is that of the class of failure."""
    try:
        fetch_all(read_plan(arguments.plan), Workspace(arguments.workspace, arguments.attempt))
        outcome = outcome_of(0, None)
    except Exception as error:
        outcome = outcome_of(0, error)
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        say("not-fetched", failure=outcome.failure, reason=outcome.reason, message=outcome.message)
    leave_outcome(outcome)
    return int(outcome.exit_code)


def fetch_all(plan: RunPlan, workspace: Workspace) -> None:
    """Fetch what is not there yet. Raises ConfigError, Crash, Superseded, OSError."""
    workspace.open()
    for field, source in missing(plan):
        assert source.fetch is not None
        say("fetching", field=field, ref=source.ref)
        note = _fetch(field, source, source.fetch, workspace)
        say("fetched", field=field, **note.dump())


def open_remote(place: Place, fetch: PlanFetch) -> Remote:
    """Return the other side. Its libraries are loaded here, for they take a second or more."""
    if fetch.hf is not None:
        from .hub import Hub

        return Hub(place, fetch.hf, fetch.content)
    from .bucket import Bucket

    assert fetch.s3 is not None
    return Bucket(place, fetch.s3, fetch.content)


def _fetch(field: str, source: PlanSource, fetch: PlanFetch, workspace: Workspace) -> Note:
    home = confined(Path(source.path), source.ref).parent
    home.parent.mkdir(parents=True, exist_ok=True)
    for left in home.parent.glob(f".{home.name}.*"):
        # Half-fetched by an attempt that was killed; one that still runs has been superseded.
        shutil.rmtree(left, ignore_errors=True)
    place = Place(field, source.ref, fetch.credentials, (TOKEN_KEY,) if fetch.hf is not None else STORE_KEYS)
    remote = open_remote(place, fetch)
    revision = _revision(remote, home.with_name(f"{home.name}.revision"), workspace)
    entries = chosen(place, fetch.content, remote.entries(revision))
    size = sum(entry.size_bytes for entry in entries)
    if size > (free := shutil.disk_usage(home.parent).free):
        raise Crash(
            f"{field}: {source.ref} has {size} bytes, the storage has {free} left: enlarge the claim, or remove "
            "workspaces that are not needed any more",
            reason="StorageFull",
        )
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as temporary:
        work = Path(temporary) / home.name
        content = work / Path(source.path).name
        content.mkdir(parents=True)
        for entry in entries:
            _download(place, remote, revision, entry, content / entry.name)
        note = Note(
            ref=source.ref,
            revision=revision,
            digest=content_digest(fetch.content, content, source.ref),
            files=len(entries),
            size_bytes=size,
        )
        if source.digest not in (None, note.digest):
            raise place.unusable(f"has digest {note.digest}, the spec names {source.digest}", reason="DigestMismatch")
        write_durably(work / NOTE_FILE, note.model_dump_json(by_alias=True, indent=1).encode())
        sync_below(work)
        workspace.check()
        work.rename(home)
    sync_directory(home.parent)
    return note


def _revision(remote: Remote, note: Path, workspace: Workspace) -> str | None:
    """What the revision was resolved to by the first attempt that got so far: a branch moves, a run does not."""
    try:
        return note.read_text()
    except FileNotFoundError:
        found = remote.resolve()
    if found is not None:
        write_durably(note, found.encode(), workspace.check)
    return found


def _download(place: Place, remote: Remote, revision: str | None, entry: Entry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)

    def once() -> None:
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            for block in remote.read(entry, revision):
                size += len(block)
                # A listing that promised less may have been made before the room was looked at.
                if size > entry.size_bytes:
                    break
                file.write(block)
                digest.update(block)
        if size != entry.size_bytes:
            raise Transient(f"{entry.name} has {entry.size_bytes} bytes by the listing, {size} or more came")
        if entry.sha256 not in (None, digest.hexdigest()):
            raise Transient(f"{entry.name} came with SHA-256 {digest.hexdigest()}, the listing says {entry.sha256}")

    place.patiently(once)


def content_digest(content: SourceContent, folder: Path, ref: str) -> str:
    """The digest of what was fetched, as the same files on a volume would have it."""
    if content is SourceContent.DATA:
        return Source(str(folder), ref).digest()
    if content is SourceContent.ARTIFACT and (folder / MANIFEST_FILE).is_file():
        return verify(folder).digest()
    return digest_tree(folder)
