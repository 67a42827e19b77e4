"""The model that a run starts from: usable, what the spec names, and the same in every attempt."""

from pathlib import Path

from rlhf_operator.api.plan import PlanSource

from .data.sources import confined
from .distributed import Group
from .errors import ConfigError
from .fencing import Workspace
from .files import digest_tree
from .policy.load import check_model_directory


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
