"""The whole loop on the user's own judgements: the objects of examples/loop, changed for their rows. Plays nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo import manifests, own_rows
from demo.cluster import Object
from demo.scene import LOOP, Scene, one
from demo.voice import Voice

STEPS = {"first": 4, "better": 15}
_PROMPT_BYTES = 400
"""Longest prompt that users ask: it has no more tokens than bytes, and an answer must fit beside it."""
_LONG_WORDS = 40


def prepare(path: Path, given: str, build: Path, voice: Voice) -> Scene:
    """Read the file, teach a base model from it, and write the objects. Raises RowsError."""
    run = own_rows.prepare(path, given, build, voice)
    claim, job = manifests.load(run.manifests)
    model = reward_model(job)
    return Scene(
        base=run.base,
        common=[claim, *manifests.load([LOOP / "faulty-build.yaml"])],
        reward_model=model,
        first=policy(job, "first", model),
        better=policy(job, "better", model),
        hacked=hacked(job),
        rollout=rollout(),
        prompts=[prompt for prompt in run.prompts if len(prompt.encode()) <= _PROMPT_BYTES] or run.prompts[:1],
        max_tokens=run.max_tokens,
        uploads=run.uploads,
        certain=False,
    )


def reward_model(job: Object) -> Object:
    """A reward model of the people's own judgements. It is judged, and used whatever comes out."""
    made = one("rewardmodel")
    train, spec = made["spec"]["source"]["train"], job["spec"]
    train["baseModel"] = spec["baseModel"]
    train["dataset"] = spec["dataset"] | {"format": "Pairs"}
    train["maxLength"] = spec["generation"]["maxPromptLength"] + spec["generation"]["maxResponseLength"]
    made["spec"]["evaluation"] = {"split": made["spec"]["evaluation"]["split"]}
    made["spec"]["storage"] = spec["storage"]
    return made


def policy(job: Object, called: str, model: Object) -> Object:
    """PPO against the reward model; what the rows' own job optimises only judges."""
    judge = {"name": "judge", "rewardModelRef": {"name": model["metadata"]["name"]}}
    made = _job(job, called, [judge, *job["spec"]["scorers"]], {"scorer": "judge", "normalize": "Reference"})
    made["spec"]["training"]["steps"] = STEPS[called]
    made["spec"]["evaluation"].pop("allowTrainingScorer")
    return made


def hacked(job: Object) -> Object:
    """A scorer that takes length for quality, and nothing that holds the policy."""
    length = {"name": "long", "grader": {"length": {"unit": "Words", "min": _LONG_WORDS, "slack": _LONG_WORDS}}}
    made = _job(job, "hacked", [length], {"scorer": "long", "weight": 2.0})
    made["spec"]["ppo"]["kl"] = {"coefficient": 0, "controller": "Fixed"}
    made["spec"]["guards"] = [{"name": "finite", "nonFinite": {}, "action": "Off"}]
    made["spec"]["evaluation"]["scorers"] = ["long"]
    return made


def rollout() -> Object:
    """Nothing has limits for rows that nobody has seen, so no gate has passed."""
    made = one("policyrollout")
    made["spec"]["model"]["allowUngated"] = True
    return made


def _job(job: Object, called: str, scorers: list[Mapping[str, Any]], reward: Mapping[str, Any]) -> Object:
    made = copy.deepcopy(job)
    made["metadata"]["name"] = f"support-{called}"
    spec = made["spec"]
    spec["scorers"], spec["rewards"] = scorers, [reward]
    spec["output"]["pvc"]["path"] = f"policy-{called}"
    spec["compute"] |= {"workers": 1, "zeroStage": 0}
    return made
