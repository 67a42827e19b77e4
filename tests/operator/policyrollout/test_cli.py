"""kubectl rlhf and the real operator: what the one writes the other carries out, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from .conftest import World, artifact, variant

APPROVED = [{"name": "sign-off", "approval": {}}, {"name": "half", "weight": 50, "hold": {"minimum": "1h"}}]
STRATEGY: dict[str, Any] = {"steps": APPROVED, "bake": "1h", "scaleDownDelay": "1s"}


def rlhf(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{world.bed.kubectl_binary.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "rlhf_operator.cli.main", *arguments, "-n", world.namespace],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"KUBECONFIG": str(world.bed.kubeconfig), "PATH": path},
    )


def waiting_for_approval(world: World, name: str) -> tuple[str, str]:
    """A rollout whose candidate stands at its approval; stable's and candidate's revision."""
    one = world.apply(name, strategy=STRATEGY)["spec"]["model"]["artifact"]["digest"]
    world.serves(name, one)
    world.patch(name, model={"artifact": artifact("two")})
    status = world.until(name, lambda seen: (seen.get("step") or {}).get("name") == "sign-off", 120)
    return variant(status, "Stable")["revision"], variant(status, "Candidate")["revision"]


def test_a_rollout_is_approved_paused_resumed_and_rolled_back_from_the_shell(world: World) -> None:
    stable, candidate = waiting_for_approval(world, "steered")
    shown = rlhf(world, "status", "steered")
    assert shown.returncode == 0, shown.stderr
    assert "Step sign-off (1 of 2)" in shown.stdout
    assert candidate in shown.stdout

    approved = rlhf(world, "approve", "steered")
    assert approved.returncode == 0, approved.stderr
    assert f"approve {candidate} at step sign-off" in approved.stdout
    world.wait("half of the traffic", lambda: world.weights("steered") == {stable: 50, candidate: 50})

    for verb, paused in (("pause", True), ("resume", False)):
        done = rlhf(world, verb, "steered")
        assert done.returncode == 0, done.stderr
        world.until(
            "steered",
            lambda seen, want=paused: (
                want == any(c["type"] == "Paused" and c["status"] == "True" for c in seen["conditions"])
            ),
        )

    back = rlhf(world, "rollback", "steered")
    assert back.returncode == 0, back.stderr
    world.wait("all traffic back", lambda: world.weights("steered").get(stable) == 100)
    status = world.until("steered", lambda seen: bool(seen.get("rejected")))
    assert [each["revision"] for each in status["rejected"]] == [candidate]
    shown = rlhf(world, "status", "steered")
    assert "Not tried again, unless by kubectl rlhf retry:" in shown.stdout

    retried = rlhf(world, "retry", "steered")
    assert retried.returncode == 0, retried.stderr
    assert f"retry {candidate} at step -" in retried.stdout
    world.until("steered", lambda seen: variant(seen, "Candidate").get("revision") == candidate, 120)


def test_a_command_that_is_too_late_says_so(world: World) -> None:
    _, candidate = waiting_for_approval(world, "late")
    done = rlhf(world, "abort", "late", "--revision", "0123456789")
    assert done.returncode == 1, done.stderr
    assert "Warning CommandIgnored" in done.stdout
    assert f"abort names revision 0123456789 in step sign-off, and under way is {candidate}" in done.stdout
    assert variant(world.until("late", bool), "Candidate")["revision"] == candidate
