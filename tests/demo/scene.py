"""What the whole loop is played with: manifests, base model and customers' messages. Plays nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demo import manifests, world
from demo.basecache import cached_base
from demo.cluster import Object
from demo.quickstart import EXAMPLE, base_pairs
from demo.recipe import Recipe
from demo.voice import Voice

LOOP = EXAMPLE.parent / "loop"


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of each act, as a user would apply them, and the files they start from."""

    base: Path
    """Folder of the base model on this machine."""
    common: Sequence[Object]
    """The claim, and what several acts read."""
    reward_model: Object
    first: Object
    """The RLHFJob of the policy that goes live first."""
    better: Object
    hacked: Object
    rollout: Object
    prompts: Sequence[str]
    """What users ask."""
    max_tokens: int
    """Longest answer, in tokens."""
    uploads: dict[str, Path] = field(default_factory=dict)
    """More folders for the claim, by their place on it."""
    certain: bool = True
    """Whether it is known how each act ends; of rows that nobody has seen, it is not."""

    @property
    def claim(self) -> str:
        """Name of the claim."""
        return next(str(each["metadata"]["name"]) for each in self.common if each["kind"] == "PersistentVolumeClaim")

    @property
    def trained(self) -> list[Object]:
        """What takes minutes to make, in the order in which one needs the other."""
        return [self.reward_model, self.first, self.better, self.hacked]


def one(name: str) -> Object:
    """The one object of a file of examples/loop."""
    (found,) = manifests.load([LOOP / f"{name}.yaml"])
    return found


def support(build: Path, voice: Voice) -> Scene:
    """The closed world's support: examples/loop, and the base model of the quickstart."""
    voice.step("a small base model, made on the spot")
    base = cached_base(base_pairs(), build, Recipe(), voice)
    shared = [EXAMPLE / "prompts.yaml", EXAMPLE / "gold-grader.yaml"]
    own = [LOOP / f"{name}.yaml" for name in ("storage", "preferences", "faulty-build")]
    return Scene(
        base=base,
        common=manifests.load([*shared, *own]),
        reward_model=one("rewardmodel"),
        first=one("policy-first"),
        better=one("policy-better"),
        hacked=one("policy-hacked"),
        rollout=one("policyrollout"),
        prompts=[case.prompt for case in world.cases()],
        max_tokens=48,
    )
