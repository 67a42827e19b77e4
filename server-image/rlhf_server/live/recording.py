"""Puts recording and feedback of one serving process together, from its settings. What they do is elsewhere."""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from rlhf_operator.api.signals import CHAT_TEMPLATE_FILE, SYSTEM_PROMPT_FILE, SignalSettings

from .feedback import FeedbackApp
from .frames import WorkerSettings
from .recorder import Recorder
from .recordmetrics import RecordMetrics
from .settings import PodSettings
from .tokens import KeyFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recording:
    """What the middleware hands exchanges and feedback to."""

    recorder: Recorder
    feedback: FeedbackApp
    metrics: RecordMetrics


def recording_of(
    settings: PodSettings, registry: CollectorRegistry, signals: Callable[[], SignalSettings]
) -> Recording | None:
    """None in a process without keys or a spool, which is no pod of a rollout: nothing is recorded there.

    Raises OSError, ValueError: keys that protect nothing.
    """
    missing = [
        path for path in (settings.feedback_key, settings.pseudonym_key, settings.spool_path) if not path.exists()
    ]
    if missing:
        _log.warning("nothing is recorded and no feedback is taken: %s is not there", missing[0])
        return None
    pod = socket.gethostname()
    metrics = RecordMetrics(registry, settings.namespace, settings.rollout, settings.revision)
    worker = WorkerSettings(
        namespace=settings.namespace,
        rollout=settings.rollout,
        pod=pod,
        artifact_digest=settings.artifact_digest,
        system_prompt_digest=file_digest(settings.texts_path / SYSTEM_PROMPT_FILE),
        chat_template_digest=file_digest(settings.texts_path / CHAT_TEMPLATE_FILE),
        # A claim is mounted before a container starts: where there is no directory now, there is no claim.
        volume=settings.trajectories_path if settings.trajectories_path.is_dir() else None,
        spool=settings.spool_path,
        pseudonym_keys=settings.pseudonym_key,
        ner_model=settings.ner_model,
    )
    recorder = Recorder(worker, signals, metrics.dropped, metrics.expired)
    identity = {"namespace": settings.namespace, "rollout": settings.rollout, "pod": pod}
    feedback = FeedbackApp(KeyFile(settings.feedback_key).keys, recorder, metrics, identity)
    return Recording(recorder, feedback, metrics)


def file_digest(path: Path) -> str | None:
    """`sha256:…` of a file; None where there is none."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
