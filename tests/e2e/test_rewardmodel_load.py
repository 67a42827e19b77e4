"""A judge under load while the engine behind it is killed: late or refused, never wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from demo.cluster import Object
from e2e import rewarddata
from e2e.harness_clients import start_clients
from e2e.harness_rewardmodels import TOLERANCE, RewardModels, trainers_scores

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

CLIENTS = 50
# The engine's main process is protected from signals of its own PID namespace; it ends when its engine has.
_KILL = "import os, signal; os.kill(-1, signal.SIGKILL)"


def test_fifty_clients_get_no_wrong_score_while_an_engine_is_killed(models: RewardModels, tmp_path: Path) -> None:
    models.apply("helpful", models.spec(serving={"replicas": 2}))
    status = models.ready("helpful")["status"]
    digest, texts = status["servedVersion"], rewarddata.texts(40)
    models.until("helpful", "two ready pods", lambda _: count_ready(models, digest) == 2)
    expected = trainers_scores(models.download("helpful", tmp_path / "version"), texts)
    clients = start_clients(models.space, "load", status["url"], texts, CLIENTS, pause_seconds=0.5)
    clients.more(4 * CLIENTS)

    victim = models.pods("helpful", digest)[0]["metadata"]["name"]
    began = max(answer.answered for answer in clients.answers())
    models.space.cluster.run("exec", victim, "-c", "server", "--", "python", "-c", _KILL)
    models.until("helpful", "one pod is not ready", lambda _: count_ready(models, digest) == 1, 120)
    models.until("helpful", "both are again", lambda _: count_ready(models, digest) == 2, 900)
    restarts = {
        status["name"]: status["restartCount"]
        for status in models.space.named_pod(victim)["status"]["containerStatuses"]
    }
    assert restarts == {"server": 1, "judge": 0}, "the engine was killed, the judge waited for it"
    clients.more(4 * CLIENTS)

    answers = clients.end()
    codes = Counter(answer.code for answer in answers)
    reasons = Counter(answer.why for answer in answers if answer.code != 200)
    failed = [answer for answer in answers if answer.code != 200]
    recovery = max((answer.answered for answer in failed), default=began) - began
    print(f"{len(answers)} answers {dict(codes)}, {dict(reasons)}; last refusal {recovery:.0f} s after the kill")
    assert codes.keys() <= {200, 429, 503}, reasons
    assert codes[503] > 0, "the kill was noticed by nobody"
    assert not any("without Retry-After" in why for why in reasons)
    assert {answer.version for answer in answers if answer.code == 200} == {digest}
    for answer in answers:
        if answer.code == 200:
            assert answer.score == pytest.approx(expected[answer.text], abs=TOLERANCE)


def count_ready(models: RewardModels, digest: str) -> int:
    """Ready pods of a version."""
    return sum(_ready(pod) for pod in models.pods("helpful", digest))


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
