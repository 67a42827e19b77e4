"""What a serving pod is told: its environment, and the settings file that changes under it. Nothing else reads them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlhf_operator.api.signals import (
    ADMIN_PORT,
    FEEDBACK_KEY_FILE,
    KEYS_PATH,
    LIVE_PORT,
    PSEUDONYM_KEY_FILE,
    SAMPLES_KEY_FILE,
    SHADOW_PORT,
    SIGNALS_FILE,
    SIGNALS_PATH,
    SPOOL_PATH,
    SYSTEM_PROMPT_FILE,
    TEXTS_PATH,
    TRAJECTORIES_PATH,
    SignalSettings,
)

MIB = 1024 * 1024
_FILE_BYTES = MIB
_log = logging.getLogger(__name__)


class PodSettings(BaseSettings):
    """The pod's environment, RLHF_*: fixed for its life."""

    model_config = SettingsConfigDict(
        env_prefix="RLHF_", extra="ignore", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    namespace: Annotated[str, Field(min_length=1, max_length=253)]
    rollout: Annotated[str, Field(min_length=1, max_length=253)]
    revision: Annotated[str, Field(min_length=1, max_length=64)]
    artifact_digest: str = ""
    """Digest of what is served."""
    drain_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Longest time that a running answer may take when the pod stops."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached by its address
    """Address of the shadow and the admin port."""
    live_port: Annotated[int, Field(ge=0, le=65535)] = LIVE_PORT
    """Where vLLM listens; the warm-up goes there."""
    shadow_port: Annotated[int, Field(ge=0, le=65535)] = SHADOW_PORT
    admin_port: Annotated[int, Field(ge=0, le=65535)] = ADMIN_PORT
    signals_path: Path = Path(SIGNALS_PATH)
    texts_path: Path = Path(TEXTS_PATH)
    keys_path: Path = Path(KEYS_PATH)
    spool_path: Path = Path(SPOOL_PATH)
    trajectories_path: Path = Path(TRAJECTORIES_PATH)

    max_body_bytes: Annotated[int, Field(ge=1024, le=1024 * MIB)] = 32 * MIB
    """Largest request; a larger one is answered 413."""
    max_answer_chars: Annotated[int, Field(ge=1, le=16 * MIB)] = 256 * 1024
    """What is kept of an answer for judges and for the record."""
    poll_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How often the settings file is looked at."""
    copy_priority: bool = False
    """Copies wait behind live requests in the engine: its scheduling policy is `priority`, and nobody else uses it."""

    ner_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")] | None = None
    """spaCy model in the image by which names of people and places are redacted too; none: patterns only."""

    @property
    def signals_file(self) -> Path:
        """signals.json."""
        return self.signals_path / SIGNALS_FILE

    @property
    def feedback_key(self) -> Path:
        """The keys that sign feedback tokens."""
        return self.keys_path / FEEDBACK_KEY_FILE

    @property
    def pseudonym_key(self) -> Path:
        """The key that pseudonyms are made with."""
        return self.keys_path / PSEUDONYM_KEY_FILE

    @property
    def samples_key(self) -> Path:
        """The key that the live judge knows this rollout's pods by."""
        return self.keys_path / SAMPLES_KEY_FILE

    def system_prompt(self) -> str:
        """The revision's system prompt; empty without one. Raises OSError, ValueError."""
        path = self.texts_path / SYSTEM_PROMPT_FILE
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""


class SignalsFile:
    """The newest readable settings. Polled, because a ConfigMap's volume swaps links and tells nobody."""

    def __init__(self, path: Path, poll_seconds: float) -> None:
        self._path, self._poll_seconds = path, poll_seconds
        self._stamp: tuple[int, int, int] | None = None
        self.current = SignalSettings()
        """What is in force: at first, nothing is judged or recorded."""
        self.stale = False
        """The file can't be read, or is none of ours: what it said before is in force."""

    def look(self) -> bool:
        """Read the file when it has changed; whether something new is in force."""
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            with self._path.open("rb") as file:
                content = file.read(_FILE_BYTES + 1)
            if len(content) > _FILE_BYTES:
                raise ValueError("larger than 1 MiB")
            self.current = SignalSettings.model_validate_json(content)
        except (OSError, ValueError) as error:
            self._refused(error)
            return False
        self.stale = False
        return True

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            with contextlib.suppress(RuntimeError):
                await asyncio.to_thread(self.look)

    def _refused(self, error: Exception) -> None:
        if not self.stale:
            _log.error("%s can't be read, former settings stay in force: %s", self._path, _words(error))
        self.stale = True


def _words(error: Exception) -> str:
    """What is wrong, without what stood there."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found[:5])
    return str(error)
