"""A user's pod template over ours: strategic by names, and ours where it must stay ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.common.podtemplate import TemplateConflict, merge_template

OURS: dict[str, Any] = {
    "metadata": {"labels": {"rlhf.dev/job": "a", "app.kubernetes.io/managed-by": "rlhf-operator"}},
    "spec": {
        "restartPolicy": "Never",
        "subdomain": "a-train",
        "tolerations": [{"key": "ours"}],
        "containers": [
            {
                "name": "trainer",
                "image": "trainer:1",
                "command": ["python"],
                "args": ["launch"],
                "ports": [{"containerPort": 9400}],
                "env": [{"name": "RLHF_WORKERS", "value": "2"}, {"name": "HOME", "value": "/home/rlhf"}],
                "volumeMounts": [{"name": "home", "mountPath": "/home/rlhf"}],
                "resources": {"limits": {"cpu": "1"}},
            }
        ],
        "volumes": [{"name": "home", "emptyDir": {}}],
    },
}


def merge(theirs: Any) -> dict[str, Any]:
    return merge_template(OURS, theirs, main="trainer")


def trainer(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


def test_an_empty_template_changes_nothing() -> None:
    assert merge({}) == OURS
    assert merge({"spec": {"containers": [{"name": "trainer"}]}}) == OURS


def test_containers_merge_by_name_and_others_are_added() -> None:
    merged = merge({"spec": {"containers": [{"name": "logs", "image": "l"}, {"name": "trainer", "image": "mine:2"}]}})
    assert [(each["name"], each["image"]) for each in merged["spec"]["containers"]] == [
        ("trainer", "mine:2"),
        ("logs", "l"),
    ]
    assert merged["spec"]["containers"][0]["args"] == ["launch"]


def test_maps_merge_and_null_drops() -> None:
    merged = merge(trainer(resources={"limits": {"cpu": None, "memory": "1Gi"}}))
    assert merged["spec"]["containers"][0]["resources"] == {"limits": {"memory": "1Gi"}}


def test_environment_volumes_and_mounts_merge_by_their_keys() -> None:
    merged = merge(
        {
            "spec": {
                "volumes": [
                    {"name": "home", "emptyDir": {"sizeLimit": "1Gi"}},
                    {"name": "env", "hostPath": {"path": "/e"}},
                ],
                "containers": [
                    {
                        "name": "trainer",
                        "env": [{"name": "PATH", "value": "/e/bin"}],
                        "volumeMounts": [{"name": "env", "mountPath": "/e", "readOnly": True}],
                    }
                ],
            }
        }
    )
    container = merged["spec"]["containers"][0]
    assert [each["name"] for each in container["env"]] == ["RLHF_WORKERS", "HOME", "PATH"]
    assert [each["mountPath"] for each in container["volumeMounts"]] == ["/home/rlhf", "/e"]
    assert merged["spec"]["volumes"][0] == {"name": "home", "emptyDir": {"sizeLimit": "1Gi"}}


def test_tolerations_join() -> None:
    assert merge({"spec": {"tolerations": [{"key": "theirs"}]}})["spec"]["tolerations"] == [
        {"key": "ours"},
        {"key": "theirs"},
    ]


REFUSED: list[tuple[Any, str]] = [
    (trainer(command=["sh"]), "containers[trainer].command"),
    (trainer(args=["x"]), "containers[trainer].args"),
    (trainer(ports=[{"containerPort": 1}]), "containers[trainer].ports"),
    (trainer(restartPolicy="Always"), "containers[trainer].restartPolicy"),
    (trainer(env=[{"name": "HOME", "value": "/"}]), "env[HOME]"),
    (trainer(env=[{"name": "RLHF_NEW", "value": "/"}]), "env[RLHF_NEW]"),
    (trainer(env={"HOME": "/"}), "env must be a list"),
    ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy"),
    ({"spec": {"subdomain": "x"}}, "spec.subdomain"),
    ({"spec": {"initContainers": [{"name": "trainer"}]}}, "belongs to the operator's container"),
    ({"spec": {"containers": [{}]}}, "needs a name"),
    ({"spec": {"containers": ["x"]}}, "must be an object"),
    ({"spec": {"$patch": "replace"}}, "patch directives"),
    ({"metadata": {"labels": {"rlhf.dev/new": "x"}}}, "labels[rlhf.dev/new]"),
    ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}, "labels[app.kubernetes.io/managed-by]"),
    ({"metadata": {"name": "x"}}, "metadata.name"),
    ({"spec": None}, "template.spec can't be null"),
    ({"metadata": {"labels": None}}, "metadata.labels can't be null"),
    (trainer(env=None), "env can't be null"),
    ({"kind": "Pod"}, "template.kind"),
    ({"spec": []}, "template.spec must be an object"),
]


@pytest.mark.parametrize(("theirs", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_ours_is_refused_by_field(theirs: Any, words: str) -> None:
    with pytest.raises(TemplateConflict) as refused:
        merge(theirs)
    assert words in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(["containers", "volumes", "tolerations", "env", "name", "trainer", "labels", "restartPolicy"])
TEMPLATES = st.dictionaries(st.sampled_from(["metadata", "spec"]), JSON | st.dictionaries(FIELDS, JSON, max_size=4))


@given(TEMPLATES)
def test_no_template_breaks_ours(theirs: Any) -> None:
    before = copy.deepcopy(OURS)
    try:
        merged = merge(theirs)
    except TemplateConflict:
        return
    finally:
        assert before == OURS
    ours = next(each for each in merged["spec"]["containers"] if each["name"] == "trainer")
    expected = OURS["spec"]["containers"][0]
    assert all(ours[field] == expected[field] for field in ("command", "args", "ports", "env"))
    assert merged["spec"]["restartPolicy"] == "Never"
    assert OURS["metadata"]["labels"].items() <= merged["metadata"]["labels"].items()
