"""What makes a revision another one, what does not, and its record read back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.names import Owner
from rlhf_operator.policyrollout import children, revisions
from rlhf_operator.policyrollout.rendering import Texts

from .makings import OWNER, SOURCE, TEXTS, rendering, spec_of


def inputs(source: Any = SOURCE, texts: Texts = TEXTS, **serving: Any) -> str:
    return revisions.inputs_key(source, spec_of(serving=serving).serving, texts)


BEFORE = inputs()


@pytest.mark.parametrize(
    "after",
    [
        inputs(replicas=5),
        inputs(autoscaling={"min": 1, "max": 2}),
        inputs(systemPrompt={"configMap": {"name": "other", "key": "place"}}),
        inputs(replace(SOURCE, ref="pvc://other/place", claim="other", folder="place")),
    ],
    ids=["replicas", "autoscaling", "another place of the text", "another place of the model"],
)
def test_it_is_the_same_revision(after: str) -> None:
    assert after == BEFORE


@pytest.mark.parametrize(
    "after",
    [
        inputs(replace(SOURCE, digest=sha256_of(b"other"))),
        inputs(args=["--max-model-len=1024"]),
        inputs(image="registry.example/own:2"),
        inputs(env=[{"name": "A", "value": "b"}]),
        inputs(texts=replace(TEXTS, system_prompt="Be kind.")),
        inputs(texts=replace(TEXTS, chat_template=None)),
    ],
    ids=["model", "arguments", "image", "environment", "system prompt", "chat template"],
)
def test_it_is_another_revision(after: str) -> None:
    assert after != BEFORE


def stored(**serving: Any) -> Any:
    made = rendering(TEXTS, **serving)
    manifest = revisions.record(made, inputs(**serving), children.render(made), 3)
    return manifest | {"metadata": manifest["metadata"] | {"uid": "uid-of-the-record"}}


def test_a_revision_is_read_back_as_it_was_rendered() -> None:
    made = rendering(TEXTS, drainTimeout="90s")
    found = revisions.read(stored(drainTimeout="90s"), OWNER)
    assert found is not None
    assert (found.name, found.digest, found.number, found.drain_seconds) == (made.revision, SOURCE.digest, 3, 90.0)
    assert found.source == SOURCE
    assert list(found.objects) == json.loads(json.dumps(children.render(made)))


def test_what_an_owner_left_becomes_its_successors() -> None:
    successor = Owner("PolicyRollout", "team", "assistant", "another-uid")
    found = revisions.read(stored(), successor)
    assert found is not None
    for each in found.objects:
        assert each["metadata"]["ownerReferences"] == [successor.reference()]
    taken = revisions.taken_over(stored(), successor)
    assert taken["metadata"]["ownerReferences"] == [successor.reference()]
    assert taken["data"] == stored()["data"]


def test_an_upgrade_of_the_operator_finds_what_it_made_with_another_image() -> None:
    made = revisions.read(stored(), OWNER)
    assert made is not None
    assert revisions.on_record([made], inputs()) == made
    assert revisions.name_of(inputs(), "registry.example/server:2") != made.name


def test_the_newest_of_equal_revisions_is_taken() -> None:
    made = revisions.read(stored(), OWNER)
    assert made is not None
    newer = replace(made, name="fffffffffff", number=9)
    assert revisions.on_record([newer, made], inputs()) == newer


def test_a_record_is_spelt_as_the_server_spells_it() -> None:
    """Go sorts keys, escapes <>& and writes 1.0 as 1: any difference makes the record immutable, metadata included."""
    made = rendering(replace(TEXTS, system_prompt="<b> & é \u2028 \x7f"), drainTimeout="1s")
    data = revisions.record(made, "x", children.render(made), 1)["data"]
    assert list(data) == sorted(data)
    for value in data.values():
        assert isinstance(value, str)
        assert value.isascii()
        assert not set(value) & set("<>&\x7f")
    again = revisions.read({"metadata": {}, "revision": 1, "data": data}, OWNER)
    assert again is not None
    texts = next(each for each in again.objects if each["kind"] == "ConfigMap")
    assert texts["data"]["system-prompt.txt"] == "<b> & é \u2028 \x7f"


def test_a_record_of_another_kind_is_none() -> None:
    assert revisions.read({"metadata": {}, "revision": 1, "data": {"format": "other/v2"}}, OWNER) is None
    assert revisions.read({"metadata": {}, "revision": 1}, OWNER) is None
