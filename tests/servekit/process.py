"""A serving pod's container as a process: vLLM with live signals around it, or bare."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from judgekit.process import Process, engine_env
from rlhf_operator.api.signals import SIGNALS_FILE, SYSTEM_PROMPT_FILE

NAME = "policy"
FEEDBACK_KEY = "k" * 40
_READY_SECONDS = 480.0


def _ports(count: int) -> list[int]:
    """Loopback ports that nobody has now, nor will soon: vLLM binds them a minute later, and the kernel gives those of
    its own range to anyone meanwhile.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between 20000 and 32000")


class PolicyServer(Process):
    """`python -m rlhf_server.live` on a machine without a GPU, with all that the pod would mount under `folder`."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        prefix: Path,
        *,
        revision: str = "r1",
        signals: Mapping[str, Any] | None = None,
        system_prompt: str = "",
        args: tuple[str, ...] = (),
        bare: bool = False,
        **env: str,
    ) -> None:
        """prefix: vLLM's Python environment. bare: vLLM alone."""
        self.folder, self.revision, self.bare = folder, revision, bare
        for name in ("signals", "texts", "keys", "spool", "trajectories"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.set_signals(signals or {})
        for name in ("feedback", "pseudonym", "samples"):
            (folder / "keys" / name).write_text(FEEDBACK_KEY)
        if system_prompt:
            (folder / "texts" / SYSTEM_PROMPT_FILE).write_text(system_prompt)
        self.shadow_port, self.admin_port, port = _ports(3)
        module = "vllm.entrypoints.openai.api_server" if bare else "rlhf_server.live"
        command = [str(prefix / "bin" / "python"), "-m", module, "--model", str(model)]
        command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--dtype", "float32", "--enforce-eager", "--disable-uvicorn-access-log", *args]
        self.env = {
            **engine_env(),
            "VLLM_PLUGINS": "",
            "RLHF_NAMESPACE": "tests",
            "RLHF_ROLLOUT": NAME,
            "RLHF_REVISION": revision,
            "RLHF_HOST": "127.0.0.1",
            "RLHF_SHADOW_PORT": str(self.shadow_port),
            "RLHF_ADMIN_PORT": str(self.admin_port),
            "RLHF_POLL_SECONDS": "0.2",
            **{f"RLHF_{name.upper()}_PATH": str(folder / name) for name in ("signals", "texts", "keys")},
            **{f"RLHF_{name.upper()}_PATH": str(folder / name) for name in ("spool", "trajectories")},
            **env,
        }
        super().__init__(command, port, folder / "server.log", self.env)
        self.shadow_url = f"http://127.0.0.1:{self.shadow_port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.admin = httpx.Client(base_url=self.admin_url, trust_env=False, timeout=30)

    def set_signals(self, content: Mapping[str, Any]) -> None:
        """Swap signals.json as a ConfigMap's volume does: by a rename."""
        target = self.folder / "signals" / SIGNALS_FILE
        new = target.with_suffix(".new")
        new.write_text(json.dumps(dict(content)))
        new.rename(target)

    def wait_ready(self) -> None:
        """Until /readyz says yes; of a bare one, /health."""
        self.wait_for(lambda: self.answers("/health") if self.bare else self.ready(), _READY_SECONDS)

    def ready(self) -> bool:
        """Whether the pod would get requests now."""
        try:
            return self.admin.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def metrics(self) -> str:
        """What a scrape finds."""
        return self.admin.get("/metrics").text

    def __exit__(self, *error: object) -> None:
        self.admin.close()
        super().__exit__(*error)
