"""When a rollout is looked at again: what a look has written wakes nobody, so what waits for it must say so."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rlhf_operator.policyrollout.reconcile import reconcile
from rlhf_operator.policyrollout.views import Pods, Traffic, Wanted

from .makings import spec_of
from .test_status import NOW, READY, look, route, settled
from .test_writes import ONE, TEXTS, TWO, record, revision

THIRD = record(replace(TEXTS, system_prompt="Be quick."), 3)
THREE = revision(THIRD)


def test_another_artifact_in_the_middle_of_a_step_is_taken_up_at_once_and_not_when_the_step_ends() -> None:
    # A job has published it: neither spec nor status says anything new while its revision is put on record.
    steps = [{"name": "ten", "weight": 10, "hold": {"minimum": "1h"}}]
    changes: dict[str, Any] = {
        "spec": spec_of(strategy={"steps": steps}),
        "wanted": Wanted(revision=TWO.name),
        "route": route(Traffic(ONE.name, TWO.name, "ten", 0, goal=10, weight=10)),
        "pods": {ONE.name: READY, TWO.name: Pods(TWO.name, "uid", replicas=1, ready=1)},
    }
    status = settled(**changes)
    later = NOW + timedelta(minutes=7)
    changes["wanted"] = Wanted(revision=THREE.name, rendered=THIRD)
    plan = reconcile(look(status, **changes), later)
    assert THIRD in plan.apply
    assert json.loads(json.dumps(plan.status)) == status, "no write of a status brings the next look about"
    assert plan.wake_at is not None
    assert plan.wake_at <= later + timedelta(seconds=1)
    changes["revisions"] = {each.name: each for each in (ONE, TWO, THREE)}
    plan = reconcile(look(status, **changes), later)
    assert plan.apply[0]["metadata"]["annotations"]["rlhf.dev/candidate"] == THREE.name
