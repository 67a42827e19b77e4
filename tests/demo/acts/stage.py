"""What the acts share: the cluster, the scene, the users and the live table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from demo import manifests
from demo.cluster import Cluster, ClusterError, Object, condition, is_true
from demo.install import Place
from demo.scene import Scene
from demo.table import Board, moved, table, variant
from demo.users import Tally, Users, tally
from demo.voice import Voice

START_SECONDS = 1200
"""A serving pod on a busy machine takes minutes to start."""
LOOK_SECONDS = 2.0


@dataclass(slots=True)
class Stage:
    """Where the acts are played."""

    place: Place
    scene: Scene
    voice: Voice
    board: Board
    users: Users | None = None
    names: dict[str, str] = field(default_factory=dict)
    """What the acts call a revision, by the revision."""

    @property
    def cluster(self) -> Cluster:
        """The cluster, in the demo's namespace."""
        return self.place.cluster

    @property
    def name(self) -> str:
        """The PolicyRollout's name, which is also the model's name for users."""
        return str(self.scene.rollout["metadata"]["name"])

    def apply(self, *documents: Object) -> None:
        """Apply objects, with what this cluster's pods need."""
        self.cluster.apply([manifests.dressed(each, self.place) for each in documents])

    def rollout(self) -> Object:
        """The PolicyRollout as it is now. Raises ClusterError when it is gone."""
        found = self.cluster.get("policyrollouts.rlhf.dev", self.name)
        if found is None:
            raise ClusterError(f"PolicyRollout {self.name} was deleted while it was watched")
        return found

    def counts(self) -> Tally:
        """What the users saw up to now; nothing before there are any."""
        return tally(self.users.seen()) if self.users else Tally()

    def watch(self, what: str, called: str, until: Callable[[Object], bool], seconds: float = START_SECONDS) -> Object:
        """Show the table until the rollout is as `until` wants it, and return it.

        called: what a revision without a name is called from now on. Raises ClusterError when it takes too long.
        """
        deadline = time.monotonic() + seconds
        before = stalled(self.rollout())
        while True:
            seen = self.rollout()
            for each in ("Candidate", "Stable"):
                if revision := variant(seen, each).get("revision"):
                    self.names.setdefault(revision, called)
            self.board.show(table(seen, self.counts(), self.names), moved(seen))
            current = (seen.get("status") or {}).get("observedGeneration") == seen["metadata"]["generation"]
            if current and until(seen):
                self.board.keep()
                return seen
            # What was rolled back before, or is just now, leaves Stalled behind and serves users all the same.
            if current and not is_true(seen, "Ready") and stalled(seen) not in ("", before):
                raise ClusterError(f"{self.name} stalled before {what}: {stalled(seen)}")
            if time.monotonic() >= deadline:
                told = self.cluster.tell(f"rlhf.dev/rollout={self.name}")
                raise ClusterError(f"{what} did not happen within {seconds:.0f} s\n{told}")
            time.sleep(LOOK_SECONDS)


def stalled(rollout: Mapping[str, Any]) -> str:
    """Why a rollout waits for a person; empty when it does not."""
    found = condition(dict(rollout), "Stalled") or {}
    return f"{found.get('reason')}: {found.get('message')}" if found.get("status") == "True" else ""


def newest(rollout: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rollout that ended last; empty when none has."""
    history = (rollout.get("status") or {}).get("history") or ()
    found: Mapping[str, Any] = history[0] if history else {}
    return found
