"""The live judge's settings: command line or environment, prefix RLHF_LIVEJUDGE_. What it judges is in its plan."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rlhf_operator.api.signals import JUDGE_PLAN_FILE, JUDGE_PLAN_PATH, JUDGE_PORT, KEYS_PATH, SAMPLES_KEY_FILE

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Everything that can be set from outside, with its unit in its name."""

    model_config = SettingsConfigDict(
        env_prefix="RLHF_LIVEJUDGE_",
        extra="ignore",
        frozen=True,
        cli_prog_name="python -m rlhf_server.livejudge",
        cli_kebab_case=True,
        use_attribute_docstrings=True,
    )

    plan: Path = Path(JUDGE_PLAN_PATH) / JUDGE_PLAN_FILE
    """judge.json; read again when it changes."""
    keys: Path = Path(KEYS_PATH) / SAMPLES_KEY_FILE
    """Keys of the rollout, one to the line; serving pods send one of them, and whoever does not is answered 401."""
    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached by its address
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = JUDGE_PORT
    """Port to listen on; 0 takes a free one."""
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    state: Path | None = None
    """Folder that outlives the process: which samples were counted is kept there. None: kept in memory only."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=512 * MIB)] = 16 * MIB
    """Largest body."""
    max_held_bytes: Annotated[int, Field(ge=1024, le=8192 * MIB)] = 64 * MIB
    """Bodies of all requests at one time; one more gets 429."""
    max_sample_bytes: Annotated[int, Field(ge=1024, le=64 * MIB)] = MIB
    """Largest sample, all of its texts together; a larger one is left out and counted."""
    queue_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Most answers or pairs that wait for one scorer."""
    queue_bytes: Annotated[int, Field(ge=1024, le=8192 * MIB)] = 128 * MIB
    """Most bytes that wait for all scorers together; each has an equal part."""
    halves: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Most halves that wait for their other half; beyond it the oldest is given up."""
    halves_bytes: Annotated[int, Field(ge=1024, le=8192 * MIB)] = 128 * MIB
    """Most bytes of waiting halves."""
    remembered: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Most requests, and most conversations, that are remembered."""
    series: Annotated[int, Field(ge=100, le=10_000_000)] = 50_000
    """Most time series; further ones are left out and counted."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Most answers or pairs that a scorer gets at a time."""
    ask_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest time for one batch at a scorer, retries included."""
    plan_poll_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How often the plan's file is looked at."""
    retry_seconds: Annotated[float, Field(gt=0, le=300)] = 5.0
    """Pause before a scorer that failed is tried again."""
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 20.0
    """After SIGTERM: how long what was taken may still be scored."""
