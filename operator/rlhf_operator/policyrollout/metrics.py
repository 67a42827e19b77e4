"""The metrics in force: those of the spec and of its metric sets; what can't be measured is told by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml
from pydantic import TypeAdapter, ValidationError

from rlhf_operator.api.policyrollout import PolicyRolloutSpec
from rlhf_operator.api.rolloutanalysis import Metric, MetricMode

from .judgeable import why_not_judgeable
from .templates import TemplateProblem, names

SET_BYTES = 256 * 1024
"""Longest metric set that is read."""
LIMIT = 64
"""Most metrics of one rollout, sets included: all share one confidence."""

_METRICS = TypeAdapter(list[Metric])
_KNOWN = frozenset({"Stable", "Candidate", "Window", "Namespace", "Name"})


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric in force."""

    metric: Metric
    args: Mapping[str, str] = field(default_factory=dict)
    """Values of `{{ .Args.name }}`."""

    @property
    def paired(self) -> bool:
        """Whether it compares answers to the same request."""
        preset = self.metric.preset
        if self.metric.mode is not None:
            return self.metric.mode is MetricMode.PAIRED
        return preset is not None and preset.reward_win_rate is not None

    @property
    def gates(self) -> bool:
        """Whether its outcome decides anything."""
        return not self.metric.dry_run


@dataclass(frozen=True, slots=True)
class InForce:
    """Every metric, or why the list can't be used."""

    metrics: tuple[Measured, ...] = ()
    problem: str = ""
    """For the person who wrote the spec or the set; then nothing is measured and no rollout goes on."""

    def named(self, name: str) -> Measured | None:
        """Return the metric of a name."""
        return next((each for each in self.metrics if each.metric.name == name), None)


def in_force(
    spec: PolicyRolloutSpec, sets: Mapping[tuple[str, str], str | None], allowed_hosts: Sequence[str] = ()
) -> InForce:
    """Return the metrics of a spec.

    sets: text by (ConfigMap, key); None where there is none.
    allowed_hosts: hosts outside the cluster that answers may go to.
    """
    if spec.analysis is None:
        return InForce()
    found = [Measured(metric) for metric in spec.analysis.metrics]
    for each in spec.analysis.metric_sets:
        place = f"metric set {each.config_map.name}/{each.config_map.key}"
        text = sets.get((each.config_map.name, each.config_map.key))
        if text is None:
            return InForce(problem=f"{place}: there is no such ConfigMap or key in this namespace")
        try:
            read = _read(text)
        except ValueError as error:
            return InForce(problem=f"{place}: {error}")
        found += [Measured(metric, each.args) for metric in read]
    problem = _problem(spec, found, allowed_hosts)
    return InForce(problem=problem) if problem else InForce(tuple(found))


def _read(text: str) -> list[Metric]:
    """Raises ValueError with what is wrong and where."""
    if len(text.encode()) > SET_BYTES:
        raise ValueError(f"longer than {SET_BYTES} bytes")
    try:
        return _METRICS.validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _problem(spec: PolicyRolloutSpec, found: Sequence[Measured], allowed_hosts: Sequence[str]) -> str:
    seen: set[str] = set()
    for each in found:
        name = each.metric.name
        if name in seen:
            return f"metric {name} is there twice: rename one"
        seen.add(name)
        problem = _template_problem(each)
        if problem:
            return f"metric {name}: {problem}"
        if each.paired and not any(step.mirror for step in spec.strategy.steps):
            return f"metric {name} compares answers to the same request: add mirror to a step, or set mode to Unpaired"
        preset = each.metric.preset
        grader = preset.scorer.grader if preset is not None and preset.scorer is not None else None
        if grader is not None and (words := why_not_judgeable(grader, allowed_hosts)) is not None:
            return f"metric {name}: {words}"
        if each.paired and (each.metric.preset is None or each.metric.preset.reward_win_rate is None):
            return f"metric {name}: only rewardWinRate compares answers to the same request: remove mode"
    if len(found) > LIMIT:
        return f"{len(found)} metrics with those of the sets; at most {LIMIT} are measured"
    return ""


def _template_problem(each: Measured) -> str:
    query = each.metric.query
    known = _KNOWN | {f"Args.{name}" for name in each.args}
    for text in (query.value, query.samples) if query is not None else ():
        try:
            unknown = sorted(names(text) - known)
        except TemplateProblem as error:
            return str(error)
        if unknown:
            return f"{{{{ .{unknown[0]} }}}} is not known; there are {', '.join(f'.{name}' for name in sorted(known))}"
    return ""
