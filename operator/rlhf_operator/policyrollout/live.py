"""What serving pods and live judge are told: sampling, slices, scorers and their versions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from rlhf_operator.api import signals
from rlhf_operator.api.graders import RewardModelRef
from rlhf_operator.api.plan import PlanRewardModel
from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutanalysis import Metric, MetricMode
from rlhf_operator.api.rolloutstatus import ScorerStatus
from rlhf_operator.api.signals import JudgePlan, LiveScorer, Purpose, SignalSettings
from rlhf_operator.common.names import Owner
from rlhf_operator.runs.addresses import token_path
from rlhf_operator.runs.rewardmodels import version_of, why_not
from rlhf_operator.runs.views import RewardModelView

from .metrics import InForce

GRADER_THRESHOLD, MODEL_THRESHOLD = 0.5, 0.0
"""A score below is a violation: graders give 0 to 1, a calibrated reward model gives log-odds."""
MAX_CONCURRENT = 8
PURPOSES: Mapping[str, Purpose] = {
    "reward_win_rate": Purpose.WIN_RATE,
    "reward_mean": Purpose.REWARD,
    "safety_violation_rate": Purpose.VIOLATION,
    "hallucination_rate": Purpose.VIOLATION,
    "jailbreak_rate": Purpose.ATTACK,
}


@dataclass(frozen=True, slots=True)
class Scorers:
    """Who judges, by version; or what is waited for."""

    used: tuple[ScorerStatus, ...] = ()
    waits_for: str = ""


def judged(metrics: InForce) -> list[Metric]:
    """Return the metrics that a scorer must judge answers for."""
    return [each.metric for each in metrics.metrics if each.metric.preset is not None and each.metric.preset.scorer]


def resolve(
    metrics: InForce,
    recorded: Iterable[ScorerStatus],
    models: Mapping[str, RewardModelView],
    now: datetime,
    *,
    under_way: bool,
) -> Scorers:
    """Return the versions that judge. While a rollout is under way none changes unless the spec names another."""
    before = {each.metric: each for each in recorded}
    used, waits = [], []
    for metric, ref in _references(metrics):
        kept = before.get(metric.name)
        known = kept is not None and kept.name == ref.name and kept.version is not None
        if kept is not None and known and (ref.version == kept.version or (ref.version is None and under_way)):
            used.append(kept)
            continue
        view = models.get(ref.name)
        words = why_not(ref, view)
        if words is None and view is not None and not view.serves:
            words = f"RewardModel {ref.name} is not served (spec.serving.enabled): live answers are judged by its URL"
        if words is not None or view is None:
            waits.append(words or ref.name)
            continue
        version = version_of(ref, view)
        digest = version.digest if version is not None else None
        same = kept is not None and kept.name == ref.name and kept.version == digest
        used.append(
            kept if same and kept else ScorerStatus(metric=metric.name, name=ref.name, version=digest, since=now)
        )
    return Scorers(tuple(used), "; ".join(dict.fromkeys(waits)))


def judge_plan(
    owner: Owner, metrics: InForce, scorers: Scorers, models: Mapping[str, RewardModelView]
) -> JudgePlan | None:
    """Return judge.json; None where nothing is to be judged."""
    found = [each for metric in judged(metrics) if (each := _scorer(metric, scorers, models)) is not None]
    if not found:
        return None
    return JudgePlan(namespace=owner.namespace, rollout=owner.name, scorers=found, slices=slices(metrics))


def signal_settings(spec: PolicyRolloutSpec, metrics: InForce, judge_url: str | None) -> SignalSettings:
    """Return signals.json. judge_url: of the judges' headless Service, where there is something to judge."""
    trajectories = spec.logging.trajectories if spec.logging is not None else None
    mirrors = [step.mirror.max_concurrent for step in spec.strategy.steps if step.mirror is not None]
    said: dict[str, object] = {}
    if trajectories is not None:
        said = {
            "trajectory_sample_rate": trajectories.sample_rate,
            "redaction": trajectories.redaction,
            "retention_seconds": trajectories.retention.seconds,
        }
    return SignalSettings.model_validate(
        {
            "judge": judge_url,
            "judge_sample_rate": spec.judge.sample_rate if judge_url is not None else 0.0,
            # One number for all steps: pods need no word of the step that is under way.
            "max_concurrent_shadows": max(mirrors, default=MAX_CONCURRENT),
            "slices": slices(metrics),
            **said,
        }
    )


def slices(metrics: InForce) -> dict[str, list[str]]:
    """Return the label values that some metric looks at; every other becomes `other`."""
    found: dict[str, set[str]] = {}
    for each in metrics.metrics:
        part = each.metric.slice
        if part is not None and part.column in signals.SLICE_LABELS:
            found.setdefault(part.column, set()).add(part.value)
    return {name: sorted(values) for name, values in sorted(found.items())}


def _references(metrics: InForce) -> Sequence[tuple[Metric, RewardModelRef]]:
    found = []
    for metric in judged(metrics):
        scorer = metric.preset.scorer if metric.preset is not None else None
        if scorer is not None and scorer.reward_model_ref is not None:
            found.append((metric, scorer.reward_model_ref))
    return found


def _scorer(metric: Metric, scorers: Scorers, models: Mapping[str, RewardModelView]) -> LiveScorer | None:
    preset = metric.preset
    scorer = preset.scorer if preset is not None else None
    if preset is None or scorer is None:
        return None
    purpose = PURPOSES[preset.which]
    if purpose is Purpose.WIN_RATE and metric.mode is MetricMode.UNPAIRED:
        # The win rate of means: every answer's score, with no other half to wait for.
        purpose = Purpose.REWARD
    if scorer.grader is not None:
        return LiveScorer(
            name=metric.name,
            purpose=purpose,
            threshold=GRADER_THRESHOLD,
            grader=scorer.grader,
            token_path=token_path(scorer.grader),
        )
    used = next((each for each in scorers.used if each.metric == metric.name), None)
    view = models.get(used.name) if used is not None else None
    url = next((each.url for each in view.versions if used and each.digest == used.version), None) if view else None
    if used is None or url is None:
        return None
    model = PlanRewardModel(name=used.name, version=used.version, url=url)
    return LiveScorer(name=metric.name, purpose=purpose, threshold=MODEL_THRESHOLD, reward_model=model)
