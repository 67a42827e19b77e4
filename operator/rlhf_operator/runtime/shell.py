"""kopf as the shell of the process: start-up, log-in, signals, clean-up. It watches nothing: see docs/decisions/001."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import kopf

from rlhf_operator.errors import OperatorError
from rlhf_operator.kube.credentials import Credentials
from rlhf_operator.runtime.operator import Operator

logger = logging.getLogger(__name__)


async def run(operator: Operator, credentials: Credentials) -> None:
    """Until SIGTERM or SIGINT, or until the operator ends by itself; raises what ended it."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    # No look at the cluster's CRDs and namespaces: nothing of kopf's depends on them, and permissions may lack.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # Set at every end: after a signal kopf would leave its own waiter for this flag behind, and wait 5 s for it.
    stop = asyncio.Event()
    ended: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []
    sessions: list[aiohttp.ClientSession] = []

    async def live() -> None:
        try:
            await operator.run()
        except asyncio.CancelledError:
            raise
        except OperatorError as error:
            ended.append(error)
        except Exception as error:
            logger.exception("the operator ended")
            ended.append(error)
        stop.set()

    async def start_up(**_: Any) -> None:
        try:
            await operator.start()
        except OperatorError as error:
            ended.append(error)
            stop.set()
            return
        except asyncio.CancelledError:
            stop.set()
            raise
        tasks.append(asyncio.create_task(live(), name="operator"))

    async def clean_up(**_: Any) -> None:
        await operator.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in sessions:
            await session.close()
        stop.set()

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=credentials.tls or True, limit=2),
            headers=dict(credentials.headers()),
            trust_env=False,
        )
        sessions.append(session)
        return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)

    kopf.on.startup(registry=registry)(start_up)
    kopf.on.cleanup(registry=registry)(clean_up)
    kopf.on.login(registry=registry)(log_in)
    # kopf would look up the user's name, and a pod's numeric user has none; the Lease has an identity of its own.
    peer: Any = "rlhf-operator"
    await kopf.operator(
        registry=registry, settings=settings, standalone=True, clusterwide=True, stop_flag=stop, identity=peer
    )
    if ended:
        raise ended[0]
