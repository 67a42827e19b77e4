"""RLHFJobs that train against a RewardModel: by its address, in process, and while its versions change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from demo.cluster import MOUNT, Object, is_true
from e2e import rewarddata
from e2e.harness import FILES_POD, Space, step_of
from e2e.harness_clients import start_clients
from e2e.harness_jobs import one_worker
from e2e.harness_rewardmodels import TOLERANCE, RewardModels, tag

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

DECODER = "input/base"
"""The policy's own base: the reward model knows every word that the policy writes."""

_JOURNAL = """
import json, pathlib
found = {{}}
for path in sorted(pathlib.Path({!r}).rglob("rewards/step-*.jsonl")):
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        found[path.stem + "/" + str(entry["row"]) + "/" + entry["text"]] = [entry["scorer"], entry["score"]]
print(json.dumps(found))
"""


def ppo_against(models: RewardModels, name: str, **changes: Any) -> dict[str, Any]:
    """PPO on one worker whose only reward is a RewardModel's; every step's rewards stay in the journal."""
    against: dict[str, Any] = {
        "scorers": [{"name": "helpful", "rewardModelRef": {"name": name}}],
        "rewards": [{"scorer": "helpful"}],
        "training": {"steps": 4, "batchSize": 32, "microBatchSize": 8},
        "checkpoints": {"everySteps": 1, "keep": 4},
    }
    return one_worker(models.space.site, **(against | changes))


def journal(space: Space, job: str) -> dict[str, tuple[str, float]]:
    """Step, row and text → the scorer's digest and the score, as the job's trainer noted them; none may be missing."""
    root = f"{MOUNT}/{space.workspace(job)}"
    found = json.loads(space.cluster.run("exec", FILES_POD, "--", "python3", "-c", _JOURNAL.format(root)))
    return {key: (scorer, float(score)) for key, (scorer, score) in found.items()}


def test_ppo_gets_the_same_rewards_by_address_and_in_process(models: RewardModels) -> None:
    space = models.space
    models.apply("helpful", models.spec(base=DECODER))
    digest = models.ready("helpful")["status"]["servedVersion"]

    space.submit("by-address", ppo_against(models, "helpful"))
    (use,) = space.complete("by-address")["status"]["rewardModels"]
    assert (use["name"], use["version"]) == ("helpful", digest)
    assert use["url"] == f"http://helpful-{tag(digest)}.{space.cluster.namespace}.svc:80"

    models.patch("helpful", {"serving": {"enabled": False}})
    models.until("helpful", "no serving pod", lambda _: not models.pods("helpful"), 300)
    assert is_true(models.get("helpful"), "Ready"), "a version's files are enough"
    space.submit("in-process", ppo_against(models, "helpful"))
    (use,) = space.complete("in-process")["status"]["rewardModels"]
    assert (use["version"], "url" in use) == (digest, False)

    remote, local = journal(space, "by-address"), journal(space, "in-process")
    both = sorted(remote.keys() & local.keys())
    print(f"{len(both)} texts of {len(remote)} and {len(local)} were written by both")
    assert len(both) >= 0.9 * len(remote), "equal rewards, equal updates, equal texts"
    apart = max(abs(remote[key][1] - local[key][1]) for key in both)
    print(f"largest difference of two rewards: {apart:.2e}")
    assert apart <= TOLERANCE
    assert {remote[key][0] for key in both} == {local[key][0] for key in both}, "one scorer, two ways to ask it"
    assert len({round(score, 3) for _, score in remote.values()}) > 10


def test_a_running_job_keeps_its_version_while_clients_move_to_the_next(models: RewardModels) -> None:
    space = models.space
    models.apply("helpful", models.spec(base=DECODER))
    first = newest(models, "a version", lambda versions: len(versions) == 1)
    # A second version is made and brought up, for a job that waits for it, while the first is held in use.
    models.patch("helpful", {"pinnedVersion": first, "source": {"train": {"training": {"epochs": 5}}}})
    second = newest(models, "a second version", lambda versions: len(versions) == 2)
    waiting = {"name": "helpful", "rewardModelRef": {"name": "helpful", "version": second}}
    space.submit("waiting", ppo_against(models, "helpful", scorers=[waiting], suspend=True))
    found = models.until("helpful", "both versions answer", lambda seen: len(answering(seen)) == 2)
    assert found["status"]["servedVersion"] == first
    texts = rewarddata.texts(8)
    clients = start_clients(space, "clients", found["status"]["url"], texts)
    long = {"training": {"steps": 80, "batchSize": 32, "microBatchSize": 16}, "checkpoints": {"everySteps": 40}}
    space.submit("ppo", ppo_against(models, "helpful", **long))
    space.until("ppo", "two steps", lambda job: step_of(job) >= 2, 600)

    models.patch("helpful", {"pinnedVersion": None})
    models.until("helpful", "the second version serves", lambda seen: seen["status"]["servedVersion"] == second, 120)
    at = step_of(space.job("ppo"))
    print(f"the switch came at step {at} of 80")
    # The job goes on, on the version that it began with: its own Service and pods are there as long as it runs.
    job = space.until("ppo", "steps after the switch", lambda job: step_of(job) >= at + 5, 600)
    assert [(use["name"], use["version"]) for use in job["status"]["rewardModels"]] == [("helpful", first)]
    clients.more(10)
    answers = clients.end()
    job = space.complete("ppo")
    assert not job["status"].get("restarts")
    assert [(use["name"], use["version"]) for use in job["status"]["artifact"]["rewardModels"]] == [("helpful", first)]
    assert len(job["status"]["attempts"]) == 1

    assert {answer.code for answer in answers} == {200}, [answer for answer in answers if answer.code != 200][:5]
    versions = [answer.version for answer in sorted(answers, key=lambda answer: answer.asked)]
    changes = [number for number in range(1, len(versions)) if versions[number] != versions[number - 1]]
    assert (versions[0], versions[-1], len(changes)) == (first, second, 1), changes
    # Nobody pins the first version any more: its pods go, its record and files stay for the way back.
    models.until("helpful", "the first version's pods are gone", lambda _: not models.pods("helpful", first), 300)
    assert models.version("helpful", first)["gate"] == "Passed"


def newest(models: RewardModels, what: str, enough: Callable[[list[Any]], bool]) -> str:
    """Wait until there are enough versions and the newest has passed; returns its digest."""

    def probe(seen: Object) -> bool:
        versions = seen["status"].get("versions") or []
        return enough(versions) and versions[0]["gate"] == "Passed"

    found: str = models.until("helpful", what, probe)["status"]["versions"][0]["digest"]
    return found


def answering(seen: Object) -> list[str]:
    """The versions whose own Service has pods behind it."""
    return [version["digest"] for version in seen["status"]["versions"] if version.get("url")]
