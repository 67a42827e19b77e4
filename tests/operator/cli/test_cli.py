"""kubectl rlhf against a real API server with the chart's policy in force; a thread answers as the operator does."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from opkit.api import Api, ApiError, kubeconfig_for
from opkit.process import wait_for
from rlhf_operator.common.commands import ANNOTATION, NotACommand, parse
from rlhf_operator.common.resources import EVENTS, POLICYROLLOUTS
from testbed.bed import Bed
from testbed.binaries import require
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import KUBERNETES

CHART = Path(__file__).resolve().parents[3] / "charts" / "rlhf-operator"
NAMESPACE = "team"
SPEC = {
    "model": {"rlhfJobRef": {"name": "job"}},
    "route": {"parentRefs": [{"name": "public"}]},
    "strategy": {"steps": [{"name": "tenth", "weight": 10}, {"name": "sign-off", "approval": {}}]},
}
STATUS: dict[str, Any] = {
    "phase": "Progressing",
    "variants": [{"name": "Stable", "revision": "9a1b"}, {"name": "Candidate", "revision": "5f3c", "weight": 10}],
    "step": {"index": 1, "name": "sign-off", "message": "waits for approval"},
}


@dataclass
class Shell:
    """Runs the command as one user."""

    kubeconfig: Path
    path: str

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rlhf_operator.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig), "PATH": self.path},
        )


@dataclass
class World:
    """The cluster, its administrator, and two users by real tokens."""

    api: Api
    bed: Bed
    folder: Path

    def user(self, name: str) -> tuple[str, Shell]:
        """The user's name as the API server knows it, and a shell of theirs."""
        token = self.bed.kubectl.run("--namespace", NAMESPACE, "create", "token", name).strip()
        path = kubeconfig_for(self.bed.kubeconfig, self.folder / name, token=token)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["contexts"][0]["context"]["namespace"] = NAMESPACE
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return f"system:serviceaccount:{NAMESPACE}:{name}", Shell(path, self.path)

    @property
    def path(self) -> str:
        return f"{self.bed.kubectl_binary.parent}{os.pathsep}{os.environ['PATH']}"

    def rollout(self, name: str, **status: Any) -> None:
        meta = {"name": name, "namespace": NAMESPACE}
        self.api.create(POLICYROLLOUTS, {"metadata": meta, "spec": SPEC})
        self.api.patch(POLICYROLLOUTS, NAMESPACE, name, {"status": STATUS | status}, sub="status")

    def annotation(self, name: str) -> str | None:
        found = self.api.get(POLICYROLLOUTS, NAMESPACE, name)
        assert found is not None
        value: str | None = found["metadata"].get("annotations", {}).get(ANNOTATION)
        return value

    @contextmanager
    def operator(self, name: str, words: str) -> Iterator[None]:
        """Consumes the rollout's next command and says so by an event, as the controller does."""
        api = Api(self.bed.kubeconfig)

        def consume() -> bool:
            found = api.get(POLICYROLLOUTS, NAMESPACE, name)
            assert found is not None
            try:
                command = parse(found["metadata"].get("annotations", {}).get(ANNOTATION, ""))
            except NotACommand:
                return False
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            last = {"id": command.id, "verb": command.verb, "by": command.user, "at": now}
            api.patch(POLICYROLLOUTS, NAMESPACE, name, {"status": {"lastCommand": last}}, sub="status")
            regarding = {"apiVersion": POLICYROLLOUTS.api_version, "kind": "PolicyRollout", "name": name}
            event = {
                "metadata": {"name": f"{name}.1", "namespace": NAMESPACE},
                "eventTime": now,
                "regarding": {**regarding, "namespace": NAMESPACE, "uid": found["metadata"]["uid"]},
                "type": "Normal",
                "reason": "Command",
                "note": words,
                "action": "Reconcile",
                "reportingController": "test",
                "reportingInstance": "test-1",
            }
            api.create(EVENTS, event)
            return True

        thread = threading.Thread(target=lambda: wait_for("a command", consume, 60))
        thread.start()
        try:
            yield
        finally:
            thread.join(70)
            api.close()


def _rendered(*settings: str) -> list[dict[str, Any]]:
    helm = require(["helm"], Paths.default(), Progress())["helm"]
    command = [str(helm), "template", "rlhf-operator", str(CHART), "-n", "x", "--kube-version", KUBERNETES]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.fixture(scope="module")
def world(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # The policy for one namespace: others have the control plane too.
    policies = [each for each in _rendered(f"namespaces={{{NAMESPACE}}}") if "Admission" in each["kind"]]
    roles = [each for each in _rendered() if each["metadata"]["name"].endswith(("-edit", "-approve"))]
    api = Api(bed.kubeconfig)
    bed.kubectl.run("create", "namespace", NAMESPACE)
    bed.kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump_all([*policies, *roles]))
    # For events a person needs a right of their own: Kubernetes' edit has it.
    reader = ["create", "role", "events", "--verb=list", "--resource=events.events.k8s.io"]
    bed.kubectl.run("--namespace", NAMESPACE, *reader)
    for name, granted in {"dev": ["edit"], "lead": ["edit", "approve"]}.items():
        bed.kubectl.run("--namespace", NAMESPACE, "create", "serviceaccount", name)
        who = f"--serviceaccount={NAMESPACE}:{name}"
        bed.kubectl.run("--namespace", NAMESPACE, "create", "rolebinding", f"{name}-events", "--role=events", who)
        for role in granted:
            binding = ["create", "rolebinding", f"{name}-{role}", f"--clusterrole=rlhf-operator-{role}", who]
            bed.kubectl.run("--namespace", NAMESPACE, *binding)
    made = World(api, bed, tmp_path_factory.mktemp("users"))
    made.rollout("probe")
    tries = itertools.count()

    def in_force() -> bool:
        # Another value each time: one that passed before would pass again as unchanged.
        patch = {"metadata": {"annotations": {ANNOTATION: f"x{next(tries)}"}}}
        try:
            api.patch(POLICYROLLOUTS, NAMESPACE, "probe", patch)
        except ApiError:
            return True
        return False

    try:
        wait_for("the policy to be in force", in_force, 60)
        yield made
    finally:
        api.close()


def test_an_approval_is_given_in_the_callers_own_name_and_waited_for(world: World) -> None:
    world.rollout("approved")
    name, lead = world.user("lead")
    with world.operator("approved", "lead approved 5f3c in step sign-off"):
        done = lead("approve", "approved")
    assert done.returncode == 0, done.stderr
    command = parse(world.annotation("approved") or "")
    assert (command.verb, command.revision, command.step, command.user) == ("approve", "5f3c", "sign-off", name)
    assert "Normal Command: lead approved 5f3c in step sign-off" in done.stdout
    assert f"Last command: approve by {name}" in done.stdout


def test_who_may_not_approve_is_told_so_in_plain_words(world: World) -> None:
    world.rollout("refused")
    name, dev = world.user("dev")
    done = dev("approve", "refused")
    assert done.returncode == 1
    assert f"error: {name} may not approve: the verb approve on policyrollouts/command is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert world.annotation("refused") is None


def test_a_command_that_nobody_looks_at_is_an_error_and_stands(world: World) -> None:
    world.rollout("alone")
    _, dev = world.user("dev")
    done = dev("pause", "alone", "--timeout", "1")
    assert done.returncode == 1
    assert "has not looked at it within 1 s" in done.stderr
    first = world.annotation("alone")
    assert first
    second = dev("abort", "alone")
    assert second.returncode == 1
    assert "still waits for the operator" in second.stderr
    assert world.annotation("alone") == first
    third = dev("abort", "alone", "--replace", "--timeout", "0")
    assert third.returncode == 0, third.stderr
    assert parse(world.annotation("alone") or "").verb == "abort"


def test_a_verb_that_makes_no_sense_is_refused_before_anything_is_written(world: World) -> None:
    world.rollout("settled", variants=STATUS["variants"][:1], step=None)
    _, dev = world.user("dev")
    done = dev("promote", "settled")
    assert done.returncode == 1
    assert "there is no candidate to promote; the stable revision is 9a1b" in done.stderr
    assert world.annotation("settled") is None


def test_status_of_a_rollout_and_of_none(world: World) -> None:
    world.rollout("shown")
    _, dev = world.user("dev")
    done = dev("status", "shown")
    assert done.returncode == 0, done.stderr
    assert "Step sign-off (2 of 2): waits for approval" in done.stdout
    none = dev("status", "no-such-rollout")
    assert none.returncode == 1
    assert '"no-such-rollout" not found' in none.stderr
    elsewhere = dev("status", "shown", "-n", "default")
    assert elsewhere.returncode == 1
    assert "cannot get resource" in elsewhere.stderr


def test_the_field_belongs_to_the_tool_and_not_to_the_operator(world: World) -> None:
    world.rollout("managed")
    _, dev = world.user("dev")
    assert dev("pause", "managed", "--timeout", "0").returncode == 0
    found = world.api.get(POLICYROLLOUTS, NAMESPACE, "managed")
    assert found is not None
    owners = [
        each["manager"]
        for each in found["metadata"]["managedFields"]
        if f"f:{ANNOTATION}" in str(each.get("fieldsV1", {}))
    ]
    assert owners == ["kubectl-rlhf"]


def test_without_a_kubeconfig_it_says_what_is_missing(world: World, tmp_path: Path) -> None:
    done = Shell(tmp_path / "none", world.path)("status", "shown")
    assert done.returncode == 1
    assert "kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr
    done = Shell(tmp_path / "none", str(tmp_path))("status", "shown")
    assert done.returncode == 1
    assert "kubectl is not on the PATH" in done.stderr


def test_kubectl_finds_it_as_its_plugin(world: World) -> None:
    """By the entry point that is installed beside the interpreter."""
    script = Path(sys.executable).parent / "kubectl-rlhf"
    assert script.exists(), "run make setup: the project was installed before it had this entry point"
    world.rollout("plugin")
    _, dev = world.user("dev")
    done = subprocess.run(
        [str(world.bed.kubectl_binary), "rlhf", "status", "plugin"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"KUBECONFIG": str(dev.kubeconfig), "PATH": f"{script.parent}{os.pathsep}{world.path}"},
    )
    assert done.returncode == 0, done.stderr
    assert "Candidate  5f3c" in done.stdout
