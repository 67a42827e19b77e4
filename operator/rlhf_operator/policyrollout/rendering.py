"""What a revision's objects are made of, and what they are called. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_operator.api import signals
from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.names import REVISION_LABEL, ROLE_LABEL, Owner

from .views import Source

SERVER, VERIFY = "server", "verify"


@dataclass(frozen=True, slots=True)
class Texts:
    """What changes a model's behaviour beside its weights, as read from ConfigMaps."""

    system_prompt: str | None = None
    chat_template: str | None = None

    def files(self) -> dict[str, str]:
        """Return file name → content."""
        named = {signals.SYSTEM_PROMPT_FILE: self.system_prompt, signals.CHAT_TEMPLATE_FILE: self.chat_template}
        return {name: text for name, text in named.items() if text is not None}


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that a revision's objects are made of."""

    owner: Owner
    revision: str
    source: Source
    spec: PolicyRolloutSpec
    texts: Texts
    image: str
    pull_policy: str

    @property
    def name(self) -> str:
        """Name of everything that belongs to the revision."""
        return revision_name(self.owner.name, self.revision)


def revision_name(owner: str, revision: str) -> str:
    """Return the name of everything that belongs to a revision."""
    return f"{owner}-{revision}"


def signals_name(owner: str) -> str:
    """Return the name of the ConfigMap with the live settings."""
    return f"{owner}-signals"


def keys_name(owner: str) -> str:
    """Return the name of the Secret with the rollout's keys."""
    return f"{owner}-keys"


def labels_of(owner: Owner, revision: str) -> dict[str, str]:
    """Return the labels by which a revision's pods are selected."""
    return {owner.label: owner.name, REVISION_LABEL: revision, ROLE_LABEL: SERVER}


def image_of(spec: PolicyRolloutSpec, defaults: OperatorDefaults) -> str:
    """Return the image of the serving pods."""
    return spec.serving.image or defaults.server_image
