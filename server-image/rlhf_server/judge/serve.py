"""The judge's process: reads the version's files, listens, and ends in order. Routes are in app.py."""

import asyncio
import logging
import signal

from rlhf_operator.api.scorerfile import PROBES_FILE, SCORER_FILE, Probe, ScorerFile, ScorerKind
from rlhf_scoring.artifact import verify
from rlhf_scoring.errors import ArtifactError
from rlhf_scoring.version import load_probes, load_scorer_file
from rlhf_server.listening import server as listening

from .app import Judge, build_app
from .engine import Engine
from .errors import ConfigError
from .graders import Graders
from .settings import Settings

_log = logging.getLogger(__name__)


def load(settings: Settings) -> Judge:
    """Read and verify the version's directory. Raises ConfigError naming what is wrong with it."""
    directory = settings.scorer
    try:
        verify(directory, settings.version)
        scorer = load_scorer_file(directory)
        probes = load_probes(directory)
    except (ArtifactError, OSError, ValueError) as error:
        raise ConfigError(f"{directory} is not version {settings.version}: {error}") from error
    if scorer is None:
        raise ConfigError(f"{directory} has no {SCORER_FILE}: it is no version of a RewardModel")
    check_probes(probes, scorer)
    return Judge.of(settings, scorer, probes, engine_for(settings, scorer))


def check_probes(probes: list[Probe], scorer: ScorerFile) -> None:
    """Refuse a model that could never be told from a wrong one. Graders are code: the manifest tells."""
    if scorer.kind is ScorerKind.GRADERS:
        return
    scored = {dimension for probe in probes for dimension in probe.scores}
    if unprobed := [dimension for dimension in scorer.dimensions if dimension not in scored]:
        raise ConfigError(f"{PROBES_FILE} has no score of {', '.join(unprobed)}: nothing to tell a wrong head by")


def engine_for(settings: Settings, scorer: ScorerFile) -> Engine:
    """What scores: graders here, or the engine beside."""
    if scorer.kind is ScorerKind.GRADERS:
        return Graders(settings.scorer, scorer)
    # Here and not at the top: graders need none of it.
    from .vllm import VLLM, Reader

    return VLLM(
        settings.engine,
        Reader(settings.scorer),
        timeout_seconds=settings.engine_timeout_seconds,
        concurrency=settings.concurrency,
    )


async def run(settings: Settings, judge: Judge) -> None:
    """Serve until SIGTERM or SIGINT: say no, take what still comes for a while, finish it, end."""
    server = listening(build_app(judge), int(settings.drain_seconds), host=settings.host, port=settings.port)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ending.set)

    async def end() -> None:
        await ending.wait()
        _log.info("ending", extra={"queued": judge.queue.size})
        judge.readiness.drain()
        await asyncio.sleep(settings.linger_seconds)
        server.should_exit = True

    waiting = asyncio.create_task(end())
    try:
        await server.serve()
    finally:
        waiting.cancel()
