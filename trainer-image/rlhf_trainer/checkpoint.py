"""Checkpoints: complete or not there. What goes into one is the caller's; whether it counts is decided here.

A checkpoint counts once COMPLETE.json stands in its folder. That file is renamed into place last, after every rank has
written and synced its part, and names each file's size and SHA-256. Whatever lacks it is ignored and later removed.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from rlhf_operator.api.base import Model
from rlhf_operator.api.result import CheckpointRecord, Digest

from .distributed import Group
from .errors import ConfigError, is_permanent
from .fencing import Workspace
from .files import digest_bytes, digest_file, files_below, sync_below, sync_directory, write_durably

COMPLETE_FILE = "COMPLETE.json"
CHECKPOINTS = "checkpoints"
POLICY_FOLDER = "policy"


class FileRecord(Model):
    """One file of a checkpoint."""

    size: Annotated[int, Field(ge=0)]
    sha256: Digest


class Complete(Model):
    """COMPLETE.json: what makes a checkpoint one."""

    plan_digest: Digest
    phase: str
    step: int
    world_size: int
    crossed: list[str] = Field(default_factory=list)
    """Guards that may stop the run and whose limit was passed at this step."""
    files: dict[str, FileRecord]

    def digest(self) -> str:
        """The digest of the checkpoint as a whole."""
        return digest_bytes(self.model_dump_json(by_alias=True).encode())


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint and where it lies."""

    path: Path
    complete: Complete

    @property
    def step(self) -> int:
        """The step after which it was written."""
        return self.complete.step

    def record(self) -> CheckpointRecord:
        """The checkpoint as status names it."""
        return CheckpointRecord(step=self.step, digest=self.complete.digest())

    def verify(self) -> None:
        """Hold every file against its size and digest. Raises ConfigError naming the first that differs."""
        for name, expected in self.complete.files.items():
            path = self.path / name
            if not path.is_file():
                raise ConfigError(f"checkpoint {self.path}: {name} is missing", reason="CheckpointCorrupt")
            if path.stat().st_size != expected.size or digest_file(path) != expected.sha256:
                raise ConfigError(
                    f"checkpoint {self.path}: {name} is not what COMPLETE.json says (size or SHA-256 differ); "
                    "the storage changed it after it was written. To go on from the one before, remove this "
                    "folder, then delete the job and create it again with the same name and spec",
                    reason="CheckpointCorrupt",
                )


class CheckpointStore:
    """The checkpoints of one phase (`step` for the algorithm, `warmstart` for its SFT) in one workspace."""

    def __init__(self, workspace: Workspace, group: Group, plan_digest: str, phase: str, keep: int) -> None:
        self._workspace = workspace
        self._group = group
        self._plan_digest = plan_digest
        self._phase = phase
        self._keep = keep

    def save(self, step: int, write: Callable[[Path], None], crossed: Sequence[str] = ()) -> Checkpoint:
        """Write a checkpoint: `write(folder)` runs on every rank, and the folder counts once all of them are done.

        crossed: guards that may stop the run and whose limit was passed at this step; rank 0's count.
        """
        folder = self._workspace.own / CHECKPOINTS / f"{self._phase}-{step:08d}"
        if self._group.is_main:
            self._workspace.check()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._group.barrier("the start of a checkpoint")
        write(folder)
        # Each rank syncs: another node's page cache is out of rank 0's reach.
        sync_below(folder)
        self._group.barrier("a checkpoint")
        complete: Complete | None = None
        if self._group.is_main:
            complete = self._complete(folder, step, crossed)
        complete = self._group.broadcast(complete, "the end of a checkpoint")
        assert complete is not None
        return Checkpoint(folder, complete)

    def _complete(self, folder: Path, step: int, crossed: Sequence[str]) -> Complete:
        files = {}
        for path in files_below(folder):
            name = path.relative_to(folder).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, sha256=digest_file(path))
        sync_below(folder)
        complete = Complete(
            plan_digest=self._plan_digest,
            phase=self._phase,
            step=step,
            world_size=self._group.world_size,
            crossed=list(crossed),
            files=files,
        )
        self._workspace.check()
        write_durably(folder / COMPLETE_FILE, complete.model_dump_json(by_alias=True, indent=1).encode())
        sync_directory(folder.parent)
        self._rotate()
        return complete

    def _rotate(self) -> None:
        """Keep the newest and the last good one; remove older ones and what older attempts left incomplete."""
        found = self.complete()
        keep = {checkpoint.path for checkpoint in [*found[-self._keep :], *last_good(found)]}
        for path in self._folders():
            newer_attempt = int(path.parent.parent.name) > self._workspace.attempt
            if path not in keep and not newer_attempt:
                # Gone as a checkpoint first, gone as files second: a kill in between leaves an incomplete one.
                (path / COMPLETE_FILE).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return [
            path
            for attempt in self._workspace.attempt_folders()
            for path in sorted((attempt / CHECKPOINTS).glob(f"{self._phase}-*"))
        ]

    def complete(self) -> list[Checkpoint]:
        """Every complete checkpoint of this plan and phase, in the order of steps; the newer attempt's last."""
        found = []
        for path in self._folders():
            manifest = path / COMPLETE_FILE
            try:
                complete = Complete.model_validate_json(manifest.read_bytes())
            except FileNotFoundError:
                continue
            except (ValidationError, OSError) as error:
                if isinstance(error, OSError) and not is_permanent(error):
                    raise
                raise ConfigError(f"checkpoint: {manifest} can't be read: {error}", "CheckpointCorrupt") from error
            if complete.plan_digest == self._plan_digest:
                found.append(Checkpoint(path, complete))
        return sorted(found, key=lambda one: one.step)

    def newest(self, minimum_step: int = 0) -> Checkpoint | None:
        """Rank 0 finds and verifies the newest complete checkpoint; every rank gets it.

        Raises ConfigError when it is of another world size, damaged, or older than `minimum_step`.
        """
        found: Checkpoint | None = None
        if self._group.is_main:
            complete = self.complete()
            found = complete[-1] if complete else None
            check_resumable(found, self._group.world_size, minimum_step)
        return self._group.broadcast(found, "the choice of a checkpoint")


def last_good(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The last of them, in the order of steps, at which no guard's limit was passed; none when there is none."""
    return [each for each in checkpoints if not each.complete.crossed][-1:]


def _below_storage(checkpoint: Path) -> str:
    """<workspace>/attempts/<n>/checkpoints/<name>: what a person finds on the claim, not where a pod mounts it."""
    return checkpoint.relative_to(checkpoint.parents[4]).as_posix()


def check_resumable(found: Checkpoint | None, world_size: int, minimum_step: int) -> None:
    """Refuse to go on from what isn't there, is too old, belongs to another world size, or is damaged."""
    step = found.step if found is not None else 0
    if step < minimum_step:
        raise ConfigError(
            f"this attempt was to resume from step {minimum_step} or later, but the newest complete checkpoint is of "
            f"step {step}: the storage lost checkpoints, or is another one. Restore it, or create a new job",
            reason="CheckpointMissing",
        )
    if found is None:
        return
    if found.complete.world_size != world_size:
        raise ConfigError(
            f"checkpoint {found.path} was written by {found.complete.world_size} ranks and this attempt has "
            f"{world_size}: a run keeps its world size. To go on with {world_size}, create a new RLHFJob whose "
            f"baseModel is pvc://<this job's storage claim>/{_below_storage(found.path)}/{POLICY_FOLDER} and name this "
            "job's artifact in parentArtifact",
            reason="WorldSize",
        )
    found.verify()
