"""What the writes of a cold start take when nothing is decided: the same children and status from a bare client."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson

from rlhf_operator.api.jobstatus import RLHFJobStatus
from rlhf_operator.api.rlhfjob import RLHFJobSpec
from rlhf_operator.common.intents import OperatorDefaults, Plan
from rlhf_operator.common.names import Owner
from rlhf_operator.common.resources import RLHFJOBS, resource_of
from rlhf_operator.kube.credentials import Credentials
from rlhf_operator.rlhfjob.reconcile import reconcile
from rlhf_operator.rlhfjob.views import Observed
from rlhf_operator.runs.views import ClaimView, References

# As many as the operator has workers.
AT_ONCE = 16


@dataclass(frozen=True)
class Request:
    """One write, its body encoded."""

    method: str
    path: str
    body: bytes
    content_type: str = "application/json"


def requests_of(obj: dict[str, Any], prompts: bytes) -> list[Request]:
    """The writes of an object's first reconcile, in its order; events are left out."""
    plan = _plan(obj, prompts)
    writes = []
    for manifest in (*plan.apply, *plan.create):
        path = resource_of(manifest["apiVersion"], manifest["kind"]).path(manifest["metadata"]["namespace"])
        writes.append(Request("POST", path, orjson.dumps(manifest)))
    metadata = obj["metadata"]
    path = RLHFJOBS.path(metadata["namespace"], metadata["name"], "status")
    patch = [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/status", "value": plan.status},
    ]
    return [*writes, Request("PATCH", path, orjson.dumps(patch), "application/json-patch+json")]


async def send(credentials: Credentials, objects: Sequence[Sequence[Request]]) -> float:
    """Seconds until every object's writes are answered, each object's one after the other."""
    waiting = list(reversed(objects))
    connector = aiohttp.TCPConnector(ssl=credentials.tls or ssl.create_default_context(), limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector, headers={"Accept-Encoding": "identity"}) as session:

        async def work() -> None:
            while waiting:
                for request in waiting.pop():
                    async with session.request(
                        request.method,
                        credentials.server + request.path,
                        data=request.body,
                        headers={**credentials.headers(), "Content-Type": request.content_type},
                    ) as response:
                        answer = await response.read()
                        if response.status >= 300:
                            raise RuntimeError(f"{request.method} {request.path}: {response.status} {answer[:500]!r}")

        started = time.monotonic()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return time.monotonic() - started


def _plan(obj: dict[str, Any], prompts: bytes) -> Plan:
    metadata = obj["metadata"]
    return reconcile(
        Observed(
            owner=Owner("RLHFJob", metadata["namespace"], metadata["name"], metadata["uid"]),
            generation=metadata["generation"],
            spec=RLHFJobSpec.model_validate(obj["spec"]),
            status=RLHFJobStatus(),
            defaults=OperatorDefaults(trainer_image="trainer:1"),
            references=References(
                claims={"models": ClaimView("models", ("ReadWriteMany",))},
                config_maps={"prompts": {"train.jsonl": prompts}},
            ),
        ),
        datetime.now(UTC),
    )
