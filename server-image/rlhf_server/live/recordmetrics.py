"""What recording and feedback count, in the serving pod's registry. Names are those of api/signals.py."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

from rlhf_operator.api import signals
from rlhf_operator.api.feedback import Verdict
from rlhf_operator.api.signals import SLICE_LABELS, Role

_REVISIONS = 16
"""Revisions that feedback is counted of; a token of an older one is counted as `other`."""
_COMBINATIONS = 64
"""Combinations of slices that are shown before there is feedback."""
OUTCOMES = ("task_completed", "task_not_completed", "escalated", "not_escalated")
VERDICTS = (*(verdict.value for verdict in Verdict), "thumbs_up", "thumbs_down")


class RecordMetrics:
    """Counters beside those of requests."""

    def __init__(self, registry: CollectorRegistry, namespace: str, rollout: str, revision: str) -> None:
        self._pod = {"rlhf_namespace": namespace, "rlhf_rollout": rollout}
        self._revision = revision
        self._revisions = {revision}
        self._expected: set[tuple[str, ...]] = set()
        identity = signals.IDENTITY_LABELS
        self._dropped = Counter(
            signals.TRAJECTORIES_DROPPED, "Exchanges that were not recorded", [*identity, "reason"], registry=registry
        )
        self._expired = Counter(
            signals.TRAJECTORIES_EXPIRED,
            "Records that were deleted because their time was over",
            [*self._pod, "revision"],
            registry=registry,
        ).labels(**self._pod, revision=revision)
        self._feedback = Counter(
            signals.FEEDBACK, "Feedback by its verdict", [*identity, *SLICE_LABELS, "verdict"], registry=registry
        )
        self._outcomes = Counter(
            signals.OUTCOMES, "What came of answers", [*identity, *SLICE_LABELS, "name"], registry=registry
        )

        self.expect(dict.fromkeys(SLICE_LABELS, ""))

    def expect(self, slices: Mapping[str, str]) -> None:
        """Show zeros for feedback that may come: what appears as 1 has not risen, as Prometheus sees it."""
        combination = tuple(slices.get(name, "") for name in SLICE_LABELS)
        if combination in self._expected or len(self._expected) >= _COMBINATIONS:
            return
        self._expected.add(combination)
        labels = self._labels(self._revision, slices)
        for verdict in VERDICTS:
            self._feedback.labels(**labels, verdict=verdict)
        for name in OUTCOMES:
            self._outcomes.labels(**labels, name=name)

    def dropped(self, role: Role, reason: str) -> None:
        """Count an exchange that was not recorded."""
        self._dropped.labels(**self._pod, revision=self._revision, role=role.value, reason=reason).inc()

    def expired(self, records: int) -> None:
        """Count records that were deleted because their time was over."""
        self._expired.inc(records)

    def feedback(self, revision: str, slices: Mapping[str, str], verdict: str) -> None:
        """One verdict about an answer of the revision."""
        self._feedback.labels(**self._labels(revision, slices), verdict=verdict).inc()

    def outcome(self, revision: str, slices: Mapping[str, str], name: str) -> None:
        """One outcome of an answer of the revision."""
        self._outcomes.labels(**self._labels(revision, slices), name=name).inc()

    def _labels(self, revision: str, slices: Mapping[str, str]) -> dict[str, str]:
        if revision not in self._revisions and len(self._revisions) >= _REVISIONS:
            revision = signals.OTHER
        self._revisions.add(revision)
        named = {name: slices.get(name, "") for name in SLICE_LABELS}
        return {**self._pod, "revision": revision, "role": Role.LIVE.value, **named}
