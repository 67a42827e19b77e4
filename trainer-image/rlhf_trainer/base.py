"""The model that a run starts from, and the one it is compared with: usable, and what the spec names."""

from pathlib import Path
from typing import Any

from rlhf_operator.api.plan import PlanSource
from rlhf_scoring.artifact import MANIFEST_FILE, verify

from .data.sources import confined
from .distributed import Group
from .errors import ConfigError
from .fencing import Workspace
from .files import digest_tree
from .policy.load import check_model_directory, load_tokenizer


def check_base(source: PlanSource, field: str, workspace: Workspace, group: Group) -> str:
    """Hold a model's directory against what can be loaded, its digest, and former attempts; returns the digest."""
    path = Path(source.path)
    check_model_directory(confined(path, source.ref), field)
    digest = ""
    if group.is_main:
        digest = digest_tree(path)
        if source.digest is not None and digest != source.digest:
            raise ConfigError(
                f"{field}: {source.ref} has digest {digest}, but the spec names {source.digest}",
                reason="DigestMismatch",
            )
        workspace.pin_base_model(digest, source.ref)
    return group.broadcast(digest, f"the digest of {field}")


def check_parent(source: PlanSource, tokenizer: Any, group: Group) -> Path:
    """Hold the parent artifact against its manifest and digest, and the base's tokenizer; returns its folder.

    An artifact is verified file by file, and its digest is the manifest's; a bare model is digested as a base is.
    """
    path, field = Path(source.path), "parentArtifact"
    check_model_directory(confined(path, source.ref), field)
    if group.is_main and (path / MANIFEST_FILE).is_file():
        verify(path, source.digest)
    elif group.is_main and source.digest is not None and (digest := digest_tree(path)) != source.digest:
        raise ConfigError(
            f"{field}: {source.ref} has digest {digest}, but the spec names {source.digest}", reason="DigestMismatch"
        )
    if load_tokenizer(path).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"{field}: {source.ref} has another tokenizer than baseModel, so that its prompts would be others: leave "
            "Parent out of evaluation.baselines"
        )
    group.barrier("the parent artifact")
    return path
