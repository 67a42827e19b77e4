"""CEL rules across the fields of an RLHFJob's spec. Rules within one block stand beside its type."""

from __future__ import annotations

from .base import Rule

_GENERATES = "(has(self.ppo) || has(self.grpo) || has(self.rloo))"
_WORLD = "(self.compute.workers * (self.compute.gpusPerWorker > 0 ? self.compute.gpusPerWorker : 1))"
_RANKS = "ranks (compute.workers x max(1, compute.gpusPerWorker))"


def _known(names: str, known: str, message: str) -> Rule:
    """Every name of one list occurs in another."""
    return Rule(f"{names}.all(n, {known}.exists(k, k == n))", message)


_SCORERS = "(has(self.scorers) ? self.scorers.map(s, s.name) : [])"
_MONITORS = "(has(self.monitors) ? self.monitors : [])"

_REFERENCES = (
    _known(
        "(has(self.rewards) ? self.rewards.map(r, r.scorer) : [])",
        _SCORERS,
        "rewards[*].scorer must be the name of an entry in scorers",
    ),
    _known(_MONITORS, _SCORERS, "monitors must be names of entries in scorers"),
    _known(
        "(has(self.evaluation) && has(self.evaluation.scorers) ? self.evaluation.scorers : [])",
        _SCORERS,
        "evaluation.scorers must be names of entries in scorers",
    ),
    _known(
        "(has(self.evaluation) && has(self.evaluation.suites) ? self.evaluation.suites.map(s, s.scorer) : [])",
        _SCORERS,
        "evaluation.suites[*].scorer must be the name of an entry in scorers",
    ),
    _known(
        "(has(self.guards) ? self.guards.filter(g, has(g.rewardHacking) && has(g.rewardHacking.monitor))"
        ".map(g, g.rewardHacking.monitor) : [])",
        _MONITORS,
        "guards[*].rewardHacking.monitor must be one of monitors",
    ),
    Rule(
        f"!has(self.rewards) || !self.rewards.exists(r, {_MONITORS}.exists(m, m == r.scorer))",
        "a scorer is either optimised or watched: name it in rewards or in monitors, not in both",
    ),
)

_ALGORITHMS = (
    Rule(
        f"!{_GENERATES} || (has(self.rewards) && self.rewards.size() > 0)",
        "PPO, GRPO and RLOO optimise rewards: add at least one entry to rewards",
    ),
    Rule(
        f"{_GENERATES} || !has(self.rewards) || self.rewards.size() == 0",
        "DPO, KTO and SFT optimise no rewards: remove rewards, or list the scorers under monitors",
    ),
    Rule(
        "!has(self.dpo) || self.dataset.format == 'Pairs'",
        "DPO learns from pairs: set dataset.format to Pairs",
    ),
    Rule(
        "!has(self.kto) || self.dataset.format in ['Binary', 'Pairs']",
        "KTO learns from judged responses: set dataset.format to Binary or Pairs",
    ),
    Rule(
        "!has(self.sft) || self.dataset.format == 'Demonstrations'",
        "SFT learns from demonstrations: set dataset.format to Demonstrations",
    ),
    Rule(
        f"!{_GENERATES} || has(self.training.steps)",
        "PPO, GRPO and RLOO count steps: set training.steps instead of training.epochs",
    ),
    Rule(
        "!has(self.ppo) || self.ppo.critic.initFrom != 'RewardModel' || (has(self.scorers) && has(self.rewards) && "
        "self.scorers.exists(s, has(s.rewardModelRef) && self.rewards.exists(r, r.scorer == s.name)))",
        "ppo.critic.initFrom RewardModel needs a reward whose scorer is a rewardModelRef: add one, or use Policy",
    ),
)

_SIZES = (
    Rule(
        "!has(self.ppo) || "
        f"self.training.batchSize % (self.ppo.miniBatches * {_WORLD} * self.training.microBatchSize) == 0",
        f"training.batchSize must be divisible by ppo.miniBatches x {_RANKS} x training.microBatchSize",
    ),
    Rule(
        f"has(self.ppo) || self.training.batchSize % ({_WORLD} * self.training.microBatchSize) == 0",
        f"training.batchSize must be divisible by {_RANKS} x training.microBatchSize",
    ),
    *(
        Rule(
            f"!has(self.{block}) || self.training.batchSize % self.{block}.groupSize == 0",
            f"training.batchSize must be divisible by {block}.groupSize: a batch holds whole groups",
        )
        for block in ("grpo", "rloo")
    ),
    Rule(
        "!has(self.warmStart) || "
        f"self.warmStart.training.batchSize % ({_WORLD} * self.warmStart.training.microBatchSize) == 0",
        f"warmStart.training.batchSize must be divisible by {_RANKS} x warmStart.training.microBatchSize",
    ),
    Rule(
        "(self.compute.gpusPerWorker > 0 ? self.compute.gpusPerWorker : 1) % self.rollout.tensorParallel == 0",
        "rollout.tensorParallel must divide compute.gpusPerWorker: an engine does not span pods",
    ),
    Rule(
        "self.compute.workers == 1 || !has(self.storage.accessModes) || "
        "self.storage.accessModes.exists(m, m == 'ReadWriteMany')",
        "several workers write to the same claim: add ReadWriteMany to storage.accessModes, or leave it out",
    ),
)

_EVALUATION = (
    Rule(
        "!has(self.evaluation) || has(self.warmStart) || !self.evaluation.baselines.exists(b, b == 'WarmStart')",
        "evaluation.baselines names WarmStart, but there is none: add warmStart, or remove the baseline",
    ),
    Rule(
        "!has(self.evaluation) || has(self.parentArtifact) || !self.evaluation.baselines.exists(b, b == 'Parent')",
        "evaluation.baselines names Parent, but there is none: add parentArtifact, or remove the baseline",
    ),
)

_GUARDS = (
    Rule(
        "has(self.guards) == has(oldSelf.guards) && (!has(self.guards) || "
        "(self.guards.size() == oldSelf.guards.size() && "
        "self.guards.all(g, oldSelf.guards.exists(o, o.name == g.name))))",
        "guards can't be added or removed: set a guard's action to Off, or create a new RLHFJob",
        field_path=".guards",
    ),
)

JOB_RULES = (*_ALGORITHMS, *_REFERENCES, *_SIZES, *_EVALUATION, *_GUARDS)
