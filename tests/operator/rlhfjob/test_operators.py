"""Jobs without an operator, and with another one: what goes on, and what is left alone.

The module has operators of its own only: one that serves every namespace would do their work.
"""

from __future__ import annotations

from pathlib import Path

from opkit.process import OperatorProcess
from rlhf_operator.common.resources import CONFIGMAPS, JOBS, PODS, RLHFJOBS, SERVICES

from .conftest import FAST, World

DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}


def test_deletion_with_the_operator_down_leaves_no_orphan(idle_world: World, tmp_path: Path) -> None:
    settings = {**FAST, "NAMESPACES": idle_world.namespace}
    with OperatorProcess(tmp_path, idle_world.bed.kubeconfig, settings=settings) as operator:
        operator.wait_ready(120)
        idle_world.apply("orphan")
        idle_world.running("orphan-train-1")
        idle_world.until_phase("orphan", "Running")
    idle_world.api.delete(RLHFJOBS, idle_world.namespace, "orphan")

    def left() -> list[str]:
        selector = "rlhf.dev/job=orphan"
        kinds = (JOBS, PODS, CONFIGMAPS, SERVICES)
        found = [each for kind in kinds for each in idle_world.api.list(kind, idle_world.namespace, selector)]
        return [each["metadata"]["name"] for each in found]

    # The garbage collector learns of new kinds every 30 s.
    idle_world.wait("every child is deleted", lambda: not left(), 180)


def test_an_operator_with_other_defaults_touches_no_job(idle_world: World, tmp_path: Path) -> None:
    settings = {**FAST, "NAMESPACES": idle_world.namespace}
    with OperatorProcess(tmp_path / "old", idle_world.bed.kubeconfig, settings=settings) as operator:
        operator.wait_ready(120)
        idle_world.apply("frozen")
        idle_world.running("frozen-train-1")
        idle_world.until_phase("frozen", "Running")
        version = idle_world.settled_version("frozen")
        image = idle_world.image("frozen-train-1")
        operator.terminate()
    upgraded = {**settings, "TRAINER_IMAGE": "registry.example/trainer:99"}
    with OperatorProcess(tmp_path / "new", idle_world.bed.kubeconfig, settings=upgraded) as operator:
        operator.wait_ready(120)
        idle_world.wait("the job was looked at", lambda: operator.metric("rlhf_operator_reconcile_seconds_count") >= 1)
        assert idle_world.settled_version("frozen") == version
        assert operator.writes() == 0
        # Also the attempts that follow run the image that the plan froze.
        idle_world.exit("frozen-train-1", {1: 75, 0: 82}, conditions=[DISRUPTED])
        idle_world.running("frozen-train-2")
        assert idle_world.image("frozen-train-2") == image
