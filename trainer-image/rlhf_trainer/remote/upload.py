"""A copy of a published artifact in an object store: its manifest comes last, so that what has one is whole."""

from pathlib import Path

from rlhf_operator.api.data import STORE_KEYS
from rlhf_operator.api.plan import PlanOutput, SourceContent
from rlhf_scoring.artifact import MANIFEST_BYTES, MANIFEST_FILE, SIGNATURE_FILE
from rlhf_trainer.files import files_below
from rlhf_trainer.progress import say

from .trouble import Place


def upload(artifact: Path, output: PlanOutput, alias: Path | None) -> str:
    """Copy an artifact, then its alias; returns its address. One that is there is left as it is.

    alias: the file that names it, beside the artifact. Raises ConfigError, Crash.
    """
    from .bucket import Bucket

    assert output.s3 is not None
    uri = output.s3.uri.rstrip("/")
    store = Bucket(Place("output", uri, output.credentials, STORE_KEYS), output.s3, SourceContent.ARTIFACT)
    manifest = (artifact / MANIFEST_FILE).read_bytes()
    names = [path.relative_to(artifact).as_posix() for path in files_below(artifact)]
    if store.small(f"{artifact.name}/{MANIFEST_FILE}", MANIFEST_BYTES + 1) == manifest:
        # The same digest is the same content; only the signature may be newer.
        names = [name for name in names if name == SIGNATURE_FILE]
    for name in sorted(names, key=lambda name: (name == MANIFEST_FILE, name)):
        store.write(f"{artifact.name}/{name}", artifact / name)
    if alias is not None:
        store.write(f"{alias.parent.name}/{alias.name}", alias)
    say("uploaded", uri=f"{uri}/{artifact.name}", files=len(names))
    return f"{uri}/{artifact.name}"
