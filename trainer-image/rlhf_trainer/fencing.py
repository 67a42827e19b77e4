"""Who owns a workspace: one attempt, the highest. Everything an attempt writes lies below its own folder.

An old attempt's pod may still run on a node that was cut off. It finds out by re-reading before each rename.
"""

import re
import secrets
import time
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.plan import RunPlan
from rlhf_operator.api.result import Result

from .errors import ConfigError, Superseded, is_permanent
from .files import sync_directory, write_durably

ATTEMPT_FILE = "ATTEMPT"
RESULT_FILE = "result.json"
ATTEMPTS = "attempts"
CLAIM_FILE = "claim"
BASE_MODEL_FILE = "base-model"
# A network file system may show a new name late: its clients keep directories for up to a minute.
CLAIM_SEEN_SECONDS = 75.0

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class Workspace:
    """The folder of one plan, seen by one attempt."""

    def __init__(self, root: Path, attempt: int) -> None:
        self.root = root
        self.attempt = attempt
        self.own = root / ATTEMPTS / str(attempt)

    def open(self) -> None:
        """Make this attempt's folder. Raises ConfigError when the storage is not there or can't ever be written."""
        if not self.root.parent.is_dir():
            raise ConfigError(f"storage: {self.root.parent} is not there: is the claim mounted?", reason="NoStorage")
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            sync_directory(self.own.parent)
        except OSError as error:
            if not is_permanent(error):
                raise
            raise ConfigError(
                f"storage: the workspace {self.root} can't be written: {error}; the claim must be mounted read-write "
                "and its files belong to the pod's user or fsGroup",
                reason="StorageReadOnly",
            ) from error

    def claim(self) -> str:
        """Take the workspace for this attempt; returns what every rank must find there (`see_claim`). Rank 0 only.

        Raises Superseded when a newer attempt has it.
        """
        self.check()
        self.open()
        write_durably(self.root / ATTEMPT_FILE, f"{self.attempt}\n".encode())
        nonce = secrets.token_hex(16)
        write_durably(self.own / CLAIM_FILE, nonce.encode())
        self.check()
        return nonce

    def see_claim(self, nonce: str, rank: int, seconds: float = CLAIM_SEEN_SECONDS) -> None:
        """Find what rank 0 wrote. Raises ConfigError when this rank's storage is not rank 0's."""
        deadline = time.monotonic() + seconds
        while self._claimed() != nonce.encode():
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"storage: rank {rank} does not find in {self.own} what rank 0 wrote there: all workers must mount "
                    "the same ReadWriteMany claim",
                    reason="StorageNotShared",
                )
            time.sleep(min(0.5, seconds))

    def _claimed(self) -> bytes:
        try:
            return (self.own / CLAIM_FILE).read_bytes()
        except FileNotFoundError:
            return b""

    def pin_base_model(self, digest: str, ref: str) -> None:
        """Note the base model's digest in the first attempt; in later ones, raise ConfigError when it is another."""
        path = self.root / BASE_MODEL_FILE
        if not path.is_file():
            self.publish(BASE_MODEL_FILE, digest.encode())
            return
        if (pinned := path.read_text()) != digest:
            raise ConfigError(
                f"baseModel: {ref} has digest {digest}, but had {pinned} when this run began: its files were changed "
                "in between. Put them back, or create a new job for the new model",
                reason="BaseModelChanged",
            )

    def owner(self) -> int:
        """The highest attempt that ever claimed this workspace, 0 when none did.

        Folders count beside the file: making one is atomic, so an old attempt that writes its number last changes
        nothing.
        """
        numbers = [int(path.name) for path in self.attempt_folders()]
        try:
            text = (self.root / ATTEMPT_FILE).read_text().strip()
        except FileNotFoundError:
            text = ""
        if _NUMBER.fullmatch(text):
            numbers.append(int(text))
        return max(numbers, default=0)

    def check(self) -> None:
        """Raise Superseded when a newer attempt owns the workspace."""
        owner = self.owner()
        if owner > self.attempt:
            raise Superseded(f"attempt {owner} owns the workspace; attempt {self.attempt} gives way and writes nothing")

    def attempt_folders(self) -> list[Path]:
        """The folders of all attempts so far, the oldest first."""
        folder = self.root / ATTEMPTS
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if _NUMBER.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name))

    def publish(self, name: str, data: bytes) -> None:
        """Write a file at the root of the workspace, once it is certain that no newer attempt owns it."""
        temporary = self.own / name
        write_durably(temporary, data)
        self.check()
        temporary.replace(self.root / name)
        sync_directory(self.root)


def finished(root: Path, plan: RunPlan) -> Result | None:
    """Return the result of this plan, when the workspace holds one: nothing is trained twice."""
    path = root / RESULT_FILE
    if not path.is_file():
        return None
    try:
        result = Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} can't be read: {str(error).splitlines()[0]}", reason="ResultUnreadable") from error
    if result.plan_digest != plan.digest():
        raise ConfigError(
            f"{path} belongs to plan {result.plan_digest}, not to {plan.digest()}: a workspace holds one plan",
            reason="ForeignWorkspace",
        )
    return result
