"""What can be wrong with a place outside the cluster, in words that name the field; and trying again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlhf_operator.api.data import SESSION_TOKEN_KEY
from rlhf_trainer.errors import ConfigError, Crash

_KEY_BYTES = 64 << 10
WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Between five tries. What lasts longer is the next attempt's."""

Result = TypeVar("Result")


class Transient(Exception):
    """The other side failed in a way that may pass."""


@dataclass(frozen=True)
class Place:
    """One place outside, as the spec names it."""

    field: str
    ref: str
    credentials: str | None
    """Folder with the keys of the Secret."""
    keys: tuple[str, ...]
    """Keys that a Secret for it holds."""

    def key(self, name: str) -> str | None:
        """Read a key of the Secret; None without a Secret. Raises ConfigError for one that lacks it."""
        if self.credentials is None:
            return None
        path = Path(self.credentials, name)
        try:
            with path.open("rb") as file:
                text = file.read(_KEY_BYTES).decode(errors="replace").strip()
        except FileNotFoundError:
            text = ""
        if not text and name != SESSION_TOKEN_KEY:
            raise ConfigError(
                f"{self.field}: Secret {path.parent.name} has no key {name}, which {self.ref} needs: add it",
                reason="CredentialsMissing",
            )
        return text or None

    def not_found(self, detail: str) -> ConfigError:
        """It is not there."""
        return ConfigError(f"{self.field}: {self.ref} is not there: {detail}", reason="SourceNotFound")

    def forbidden(self, detail: str) -> ConfigError:
        """The credentials don't open it."""
        if self.credentials is None:
            way_out = f"name a Secret with the keys {', '.join(self.keys)} in its secretRef"
        else:
            way_out = f"mend {', '.join(self.keys)} in Secret {Path(self.credentials).name}"
        return ConfigError(f"{self.field}: {self.ref} may not be used ({detail}): {way_out}", reason="SourceForbidden")

    def unusable(self, detail: str, reason: str = "SourceUnusable") -> ConfigError:
        """It is there and can't be used."""
        return ConfigError(f"{self.field}: {self.ref} {detail}", reason=reason)

    def patiently(self, call: Callable[[], Result]) -> Result:
        """Return what `call` returns, tried again while it raises Transient. Raises Crash when it never stops to."""
        for wait in (*WAITS_SECONDS, None):
            try:
                return call()
            except Transient as error:
                if wait is None:
                    tries = len(WAITS_SECONDS) + 1
                    raise Crash(
                        f"{self.field}: {self.ref} was out of reach, or broke off, in {tries} tries: {error}",
                        reason="SourceUnreachable",
                    ) from error
                time.sleep(wait)
        raise AssertionError("unreachable")
