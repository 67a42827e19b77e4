"""The judge's settings: command line or environment variables with the prefix RLHF_JUDGE_. Nothing else reads them."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Everything that can be set from outside, with its unit in its name."""

    model_config = SettingsConfigDict(
        env_prefix="RLHF_JUDGE_",
        extra="ignore",
        frozen=True,
        cli_prog_name="python -m rlhf_server.judge",
        cli_kebab_case=True,
        use_attribute_docstrings=True,
    )

    scorer: Path
    """Directory of the version: scorer.json, probes.jsonl and, for a model, its tokenizer."""
    version: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Digest of the version; the directory's manifest must have it."""
    engine: Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.:\[\]-]+$")] = "http://127.0.0.1:8000"
    """Address of the engine, without a path; graders need none."""
    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached by its address
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"

    max_items: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most items of one request."""
    max_text_bytes: Annotated[int, Field(ge=1, le=64 * MIB)] = MIB
    """Largest prompt or response, in bytes of UTF-8."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=512 * MIB)] = 16 * MIB
    """Largest body."""
    max_held_bytes: Annotated[int, Field(ge=1024, le=8192 * MIB)] = 128 * MIB
    """Bodies of all requests at one time; one more gets 429."""
    queue_depth: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    """Most texts that wait or are being scored; a request that would not fit gets 429."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Batches at the engine at one time."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most texts of one batch; texts of several requests share one."""
    engine_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest time for one batch; after it the engine counts as away."""
    engine_poll_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often the engine is asked whether it lives; shorter than any restart takes."""
    linger_seconds: Annotated[float, Field(ge=0, le=60)] = 3.0
    """After SIGTERM: how long requests are still taken, for clients that have not heard of it."""
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0
    """After that: how long requests that were taken may last."""

    @model_validator(mode="after")
    def _room_for_one(self) -> Self:
        if self.queue_depth < self.max_items:
            raise ValueError("queue_depth must not be smaller than max_items: a full request would never fit")
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError("max_held_bytes must not be smaller than max_body_bytes")
        return self
