"""What a revision is: its name, and its record (a ControllerRevision) with everything that was rendered for it. Pure.

The record is the revision: its objects are applied as they were rendered, whichever operator does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_operator.api.policyrollout import ServingSettings
from rlhf_operator.common.hashes import sha256_of
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.names import Owner, metadata
from rlhf_operator.common.resources import CONTROLLERREVISIONS
from rlhf_operator.common.times import format_time, parse_time

from .rendering import Rendering, Texts, labels_of, revision_name
from .views import Revision, Source

DIGITS = 10
FORMAT = "rlhf.dev/revision/v1"
CONTENT = "rendered"
INPUTS_LABEL = "rlhf.dev/inputs"
_OF_THE_ROLLOUT = {"replicas", "autoscaling"}
"""Fields of serving that change how many pods there are, and not what they are."""


def inputs_key(source: Source, serving: ServingSettings, texts: Texts) -> str:
    """Return a name of what is asked for. The operator's default image is not part of it: it changes nothing."""
    said = serving.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_OF_THE_ROLLOUT)
    # Where the texts come from does not matter, what they say does.
    for field in ("systemPrompt", "chatTemplate"):
        said.pop(field, None)
    contents = {name: sha256_of(text.encode()) for name, text in texts.files().items()}
    return _digits({"digest": source.digest, "serving": said, "texts": contents}, 16)


def name_of(inputs: str, image: str) -> str:
    """Return the identity of a revision: ten hex digits over what is asked for and the image that serves it."""
    return _digits({"inputs": inputs, "image": image}, DIGITS)


def on_record(revisions: Iterable[Revision], inputs: str) -> Revision | None:
    """Return the newest revision that was made of the same, with whatever image was the default then."""
    same = [each for each in revisions if each.inputs == inputs]
    return max(same, key=lambda each: each.number, default=None)


def record(made: Rendering, inputs: str, objects: Iterable[Manifest], number: int) -> dict[str, Any]:
    """Return the ControllerRevision of a revision."""
    labels = labels_of(made.owner, made.revision) | {INPUTS_LABEL: inputs}
    source = made.source
    content = {
        "drainSeconds": made.spec.serving.drain_timeout.seconds,
        "source": {
            "digest": source.digest,
            "ref": source.ref,
            "claim": source.claim,
            "folder": source.folder,
            "job": source.job,
            "origin": source.origin,
            "gate": source.gate,
            "completedAt": format_time(source.completed_at) if source.completed_at is not None else "",
        },
        "objects": [_without_owner(each) for each in objects],
    }
    return {
        "apiVersion": CONTROLLERREVISIONS.api_version,
        "kind": CONTROLLERREVISIONS.kind,
        "metadata": metadata(made.owner, revision_name(made.owner.name, made.revision), labels),
        "revision": number,
        # The server holds data immutable byte by byte, and writes it out anew at every patch, also of metadata alone:
        # sorted, numbers and <>& in Go's spelling. Whatever is spelt otherwise can't be changed, adopted or orphaned
        # any more. So: keys in order, and one text of plain ASCII.
        "data": {
            "format": FORMAT,
            "image": made.image,
            "inputs": inputs,
            CONTENT: _plain(content),
            "revision": made.revision,
        },
    }


def read(manifest: Manifest, owner: Owner) -> Revision | None:
    """Return the revision that a ControllerRevision holds; None for one that this operator can't read.

    Its objects get `owner` as theirs: the one that made them may have been deleted without them.
    """
    data = manifest.get("data") or {}
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        return None
    content = json.loads(data[CONTENT])
    source: Mapping[str, str] = content["source"]
    return Revision(
        name=data["revision"],
        digest=source["digest"],
        ref=source["ref"],
        number=manifest["revision"],
        uid=manifest["metadata"].get("uid", ""),
        objects=tuple(_with_owner(each, owner) for each in content["objects"]),
        drain_seconds=float(content["drainSeconds"]),
        inputs=data["inputs"],
        image=data["image"],
        source=Source(
            digest=source["digest"],
            ref=source["ref"],
            claim=source["claim"],
            folder=source["folder"],
            job=source["job"],
            origin=source["origin"],
            gate=source["gate"],
            completed_at=parse_time(source["completedAt"]),
        ),
    )


def taken_over(manifest: Manifest, owner: Owner) -> Manifest:
    """Return an orphaned record as it is applied to be ours again."""
    meta = manifest["metadata"]
    kept = {name: meta[name] for name in ("name", "namespace", "labels")}
    return {
        "apiVersion": CONTROLLERREVISIONS.api_version,
        "kind": CONTROLLERREVISIONS.kind,
        "metadata": kept | {"ownerReferences": [owner.reference()]},
        "revision": manifest["revision"],
        "data": manifest["data"],
    }


def _without_owner(manifest: Manifest) -> Manifest:
    kept = {name: value for name, value in manifest["metadata"].items() if name not in ("ownerReferences", "namespace")}
    return {**manifest, "metadata": kept}


def _with_owner(manifest: Manifest, owner: Owner) -> Manifest:
    ours = {"namespace": owner.namespace, "ownerReferences": [owner.reference()]}
    return {**manifest, "metadata": {**manifest["metadata"], **ours}}


def _plain(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    # Only strings hold these, and there the escape means the same.
    return text.translate({ord(each): f"\\u{ord(each):04x}" for each in "<>&\x7f"})


def _digits(value: Any, digits: int) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256_of(text.encode()).removeprefix("sha256:")[:digits]
