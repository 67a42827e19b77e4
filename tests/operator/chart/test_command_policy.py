"""The chart's admission policy for rlhf.dev/command on a real API server, with users of different rights."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from opkit.api import Api, ApiError, Object, kubeconfig_for
from opkit.process import wait_for
from rlhf_operator.common import commands
from rlhf_operator.common.resources import POLICYROLLOUTS
from testbed.bed import Bed
from testbed.binaries import require
from testbed.paths import Paths
from testbed.progress import Progress
from testbed.versions import KUBERNETES

CHART = Path(__file__).resolve().parents[3] / "charts" / "rlhf-operator"
SERVED, OTHER = "served", "elsewhere"
VERBS_OF_EDITORS = [verb for verb in commands.Verb if verb is not commands.Verb.APPROVE]
ROLLOUT = {
    "model": {"rlhfJobRef": {"name": "job"}},
    "route": {"parentRefs": [{"name": "public"}]},
}


def rendered(*settings: str) -> list[Object]:
    helm = require(["helm"], Paths.default(), Progress())["helm"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    command = [str(helm), "template", "rlhf-operator", str(CHART), "-n", "rlhf-system", "--kube-version", KUBERNETES]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def binding(namespace: str, role: str, kind: str, user: str) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{user.replace(' ', '-').lower()}", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }


@dataclass
class People:
    """The cluster's administrator, who may speak as anybody."""

    api: Api
    bed: Bed

    def as_user(self, user: str) -> Api:
        api = Api(self.bed.kubeconfig)
        api._headers["Impersonate-User"] = user
        return api

    def tell(self, user: str, rollout: str, value: str | None, namespace: str = SERVED) -> Object:
        """Set the annotation (None takes it away) as this user."""
        return self.patch(user, rollout, {"metadata": {"annotations": {commands.ANNOTATION: value}}}, namespace)

    def patch(self, user: str, rollout: str, patch: Any, namespace: str = SERVED) -> Object:
        api = self.as_user(user)
        try:
            return api.patch(POLICYROLLOUTS, namespace, rollout, patch)
        finally:
            api.close()

    def refused(self, user: str, rollout: str, value: str) -> tuple[int, str]:
        """Code and words of the refusal."""
        with pytest.raises(ApiError) as raised:
            self.tell(user, rollout, value)
        return raised.value.code, str(raised.value)

    def create(self, name: str, namespace: str = SERVED) -> None:
        self.api.create(POLICYROLLOUTS, {"metadata": {"name": name, "namespace": namespace}, "spec": ROLLOUT})

    def command(self, rollout: str, namespace: str = SERVED) -> str | None:
        found = self.api.get(POLICYROLLOUTS, namespace, rollout)
        assert found is not None
        value: str | None = found["metadata"].get("annotations", {}).get(commands.ANNOTATION)
        return value


@pytest.fixture(scope="module")
def people(bed: Bed) -> Iterator[People]:
    """The policy in one namespace; ann edits, lead edits and approves, sam may do both badly."""
    api = Api(bed.kubeconfig)
    for namespace in (SERVED, OTHER):
        bed.kubectl.run("create", "namespace", namespace)
    # The roles for people are those of an installation that serves the whole cluster.
    roles = [each for each in rendered() if each["kind"] == "ClusterRole" and "commands" not in str(each)]
    policy = [each for each in rendered(f"namespaces={{{SERVED}}}") if "Admission" in each["kind"]]
    assert [each["kind"] for each in policy] == [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ]
    bindings = []
    for namespace in (SERVED, OTHER):
        bindings += [
            binding(namespace, "rlhf-operator-edit", "ClusterRole", "ann"),
            binding(namespace, "rlhf-operator-edit", "ClusterRole", "lead"),
            binding(namespace, "rlhf-operator-approve", "ClusterRole", "lead"),
            binding(namespace, "rlhf-operator-edit", "ClusterRole", "Sam Long Name"),
            binding(namespace, "rlhf-operator-approve", "ClusterRole", "only-approves"),
            binding(namespace, "rlhf-operator-view", "ClusterRole", "sees"),
        ]
    patcher = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "patches", "namespace": SERVED},
        "rules": [{"apiGroups": ["rlhf.dev"], "resources": ["policyrollouts"], "verbs": ["get", "patch", "update"]}],
    }
    bindings.append(binding(SERVED, "patches", "Role", "only-patches"))
    bed.kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump_all([*roles, patcher, *bindings, *policy]))
    people = People(api, bed)
    people.create("probe")
    seen: list[str] = []

    def in_force() -> bool:
        try:
            # Another value each time: one that passed before would pass again as unchanged.
            people.tell("ann", "probe", f"nonsense-{len(seen)}")
            seen.append("taken")
        except ApiError as refusal:
            seen.append(str(refusal))
        return "rlhf.dev/command is" in seen[-1]

    try:
        wait_for("the policy to be in force", in_force, 60)
        people.tell("ann", "probe", None)
        yield people
    finally:
        api.close()


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "1 promote 5f3c",
        "1 promote 5f3c quarter",
        "1  promote 5f3c ann",
        "1 promote 5f3c quarter ",
        " promote 5f3c quarter ann",
        "1 Promote 5f3c quarter ann",
        "1 delete 5f3c quarter ann",
        '{"verb": "promote"}',
        "1 promote 5f3c quarter ann" + "x" * 1024,
    ],
)
def test_a_malformed_command_is_refused_with_its_usage(people: People, value: str) -> None:
    code, words = people.refused("ann", "probe", value)
    assert code == 422
    assert "<id> <verb> <revision> <step> <user>" in words.encode().decode("unicode_escape")
    assert "use kubectl rlhf" in words
    with pytest.raises(commands.NotACommand):
        commands.parse(value)


@pytest.mark.parametrize("verb", VERBS_OF_EDITORS)
def test_whoever_may_update_commands_gives_every_command_but_approval(people: People, verb: str) -> None:
    value = f"id-{verb} {verb} 5f3c quarter ann"
    people.tell("ann", "probe", value)
    assert people.command("probe") == value


def test_approval_needs_the_verb_approve(people: People) -> None:
    code, words = people.refused("ann", "probe", "2 approve 5f3c sign-off ann")
    assert code == 403
    assert "ann may not approve: the verb approve on policyrollouts/command is missing in namespace served" in words
    people.tell("lead", "probe", "2 approve 5f3c sign-off lead")
    assert people.command("probe") == "2 approve 5f3c sign-off lead"


def test_approval_may_be_given_for_one_rollout_alone(people: People) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "approves-one", "namespace": SERVED},
        "rules": [
            {
                "apiGroups": ["rlhf.dev"],
                "resources": ["policyrollouts/command"],
                "resourceNames": ["one"],
                "verbs": ["approve"],
            }
        ],
    }
    bindings = [binding(SERVED, name, "Role", "narrow") for name in ("approves-one", "patches")]
    people.bed.kubectl.run("apply", "-f", "-", stdin=yaml.safe_dump_all([role, *bindings]))
    for name in ("one", "two"):
        people.create(name)

    def approved() -> bool:
        try:
            people.tell("narrow", "one", "1 approve 5f3c sign-off narrow")
        except ApiError:
            return False
        return True

    wait_for("the right to be in force", approved, 10)
    assert people.refused("narrow", "two", "1 approve 5f3c sign-off narrow")[0] == 403


def test_other_commands_need_the_verb_update(people: People) -> None:
    for verb in VERBS_OF_EDITORS:
        code, words = people.refused("only-approves", "probe", f"3 {verb} 5f3c - only-approves")
        assert code == 403
        assert f"only-approves may not {verb}: the verb update on policyrollouts/command is missing" in words
    people.tell("only-approves", "probe", "3 approve 5f3c sign-off only-approves")


def test_being_allowed_to_patch_the_object_is_no_right_to_command(people: People) -> None:
    for verb in commands.Verb:
        code, words = people.refused("only-patches", "probe", f"4 {verb} 5f3c - only-patches")
        assert code == 403
        assert f"only-patches may not {verb}" in words


def test_nobody_speaks_for_another(people: People) -> None:
    for sender in ("ann", "only-patches"):
        code, words = people.refused(sender, "probe", "5 approve 5f3c sign-off lead")
        assert code == 403
        assert f"names lead but was sent by {sender}" in words
    code, _ = people.refused("lead", "probe", "5 promote 5f3c sign-off ann")
    assert code == 403


def test_a_user_whose_name_has_spaces_is_named_whole(people: People) -> None:
    value = "6 promote 5f3c quarter Sam Long Name"
    people.tell("Sam Long Name", "probe", value)
    assert commands.parse(value).user == "Sam Long Name"
    code, _ = people.refused("Sam Long Name", "probe", "7 promote 5f3c quarter Sam")
    assert code == 403


def test_an_unrelated_change_by_somebody_else_passes_while_the_annotation_stands(people: People) -> None:
    people.create("unrelated")
    people.tell("lead", "unrelated", "1 approve 5f3c sign-off lead")
    people.patch("only-patches", "unrelated", {"spec": {"revisionHistoryLimit": 3}})
    people.patch("ann", "unrelated", {"metadata": {"labels": {"team": "a"}}})
    # What GitOps does: the whole object again, with the same annotation.
    found = people.api.get(POLICYROLLOUTS, SERVED, "unrelated")
    assert found is not None
    api = people.as_user("only-patches")
    api.call("PUT", POLICYROLLOUTS.path(SERVED, "unrelated"), found)
    api.close()
    assert people.command("unrelated") == "1 approve 5f3c sign-off lead"


def test_the_annotation_may_be_taken_away_and_not_be_put_back_by_another(people: People) -> None:
    people.create("removal")
    people.tell("lead", "removal", "1 approve 5f3c sign-off lead")
    people.tell("only-patches", "removal", None)
    assert people.command("removal") is None
    assert people.refused("ann", "removal", "1 approve 5f3c sign-off lead")[0] == 403


def test_an_object_that_is_created_with_a_command_is_held_to_the_same(people: People) -> None:
    def create(user: str, name: str, value: str) -> None:
        api = people.as_user(user)
        try:
            meta = {"name": name, "namespace": SERVED, "annotations": {commands.ANNOTATION: value}}
            api.create(POLICYROLLOUTS, {"metadata": meta, "spec": ROLLOUT})
        finally:
            api.close()

    with pytest.raises(ApiError, match="names lead but was sent by ann"):
        create("ann", "born-approved", "1 approve 5f3c sign-off lead")
    with pytest.raises(ApiError, match="may not approve"):
        create("ann", "born-approved", "1 approve 5f3c sign-off ann")
    create("ann", "born-paused", "1 pause - - ann")


def test_the_status_subresource_is_no_way_around(people: People) -> None:
    people.create("around")
    patch = {"metadata": {"annotations": {commands.ANNOTATION: "1 approve 5f3c sign-off lead"}}}
    people.api.patch(POLICYROLLOUTS, SERVED, "around", patch, sub="status")
    assert people.command("around") is None


def test_whoever_may_only_look_changes_nothing(people: People) -> None:
    code, words = people.refused("sees", "probe", "8 pause 5f3c quarter sees")
    assert code == 403
    assert 'cannot patch resource \\"policyrollouts\\"' in words


def test_a_service_account_is_named_as_the_api_server_names_it(people: People, tmp_path: Path) -> None:
    """A real token, no impersonation: what a pipeline or Argo CD's controller would use."""
    people.bed.kubectl.run("--namespace", SERVED, "create", "serviceaccount", "pipeline")
    user = f"system:serviceaccount:{SERVED}:pipeline"
    people.bed.kubectl.run(
        "--namespace",
        SERVED,
        "create",
        "rolebinding",
        "pipeline",
        "--clusterrole=rlhf-operator-edit",
        f"--serviceaccount={SERVED}:pipeline",
    )
    token = people.bed.kubectl.run("--namespace", SERVED, "create", "token", "pipeline").strip()
    api = Api(kubeconfig_for(people.bed.kubeconfig, tmp_path / "pipeline", token=token))
    try:

        def tell(value: str) -> None:
            api.patch(POLICYROLLOUTS, SERVED, "probe", {"metadata": {"annotations": {commands.ANNOTATION: value}}})

        tell(f"9 resume 5f3c quarter {user}")
        with pytest.raises(ApiError, match=f"names ann but was sent by {user}"):
            tell("10 resume 5f3c quarter ann")
        with pytest.raises(ApiError, match="may not approve"):
            tell(f"11 approve 5f3c sign-off {user}")
    finally:
        api.close()


def test_namespaces_that_are_not_served_are_not_held(people: People) -> None:
    people.create("free", OTHER)
    people.tell("ann", "free", "anything at all", OTHER)


def test_the_roles_for_people_are_taken_up_by_kubernetes_own(people: People) -> None:
    def taken_up() -> bool:
        found = json.loads(people.bed.kubectl.run("get", "clusterrole", "edit", "view", "admin", "-o", "json"))
        rules = {
            (role["metadata"]["name"], verb)
            for role in found["items"]
            for rule in role["rules"]
            if "policyrollouts/command" in rule["resources"] or "policyrollouts" in rule["resources"]
            for verb in rule["verbs"]
        }
        assert not [each for each in rules if each[1] == "approve"], "approving is given by hand"
        assert ("view", "patch") not in rules
        return {("view", "list"), ("edit", "patch"), ("admin", "patch")} <= rules

    wait_for("the aggregated roles", taken_up, 30)
