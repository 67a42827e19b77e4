"""The model card of a policy, in Hugging Face's format: written from the plan, the result and the gate's verdict.

The same plan and result give the same text, for the card is part of the artifact's digest.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf_operator.api.algorithms import LoraOutput
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.result import Comparison, Result
from rlhf_scoring.artifact import DatasetLineage, Lineage

from .gate import Verdict

CARD_FILE = "README.md"


def card(
    plan: TrainingPlan, result: Result, comparisons: Sequence[Comparison], judged: Verdict, lineage: Lineage
) -> str:
    """The whole card as Markdown."""
    adapter = plan.lora is not None and plan.lora.output is LoraOutput.ADAPTER
    parts = [
        _metadata(plan, adapter),
        f"# {_plain(plan.name)}\n\n{_summary(plan, adapter)}",
        "## Use\n\n" + _use(plan, adapter),
        "## Data\n\n" + "\n\n".join(_dataset(each) for each in lineage.datasets),
        "## Training\n\n" + _training(plan, result),
        "## Evaluation\n\n" + _evaluation(plan, comparisons, judged),
        "## Lineage\n\n" + _table(("what", "digest"), _lineage(lineage)),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(plan: TrainingPlan, adapter: bool) -> str:
    tags = ["rlhf", plan.algorithm.value.lower(), *(["lora"] if plan.lora is not None else [])]
    fields: dict[str, Any] = {
        # Of a model that comes from the hub its name there; JSON is YAML, and quotes what has to be.
        "base_model": plan.base_model.ref.removeprefix("hf://"),
        "base_model_relation": "adapter" if adapter else "finetune",
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---"


def _summary(plan: TrainingPlan, adapter: bool) -> str:
    what = "A LoRA adapter for" if adapter else "A policy trained from"
    start = ", after supervised fine-tuning on demonstrations" if plan.warm_start is not None else ""
    return f"{what} `{_plain(plan.base_model.ref)}` by {plan.algorithm.value}{start}."


def _use(plan: TrainingPlan, adapter: bool) -> str:
    if adapter:
        load = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'base = AutoModelForCausalLM.from_pretrained("base")  # the base model named below, by its digest\n'
            'model = PeftModel.from_pretrained(base, "artifact")\n'
        )
    else:
        load = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("artifact")\n'
        )
    sampled = f"Sampled in training at temperature {plan.generation.temperature:g}"
    return (
        f'```python\n{load}tokenizer = AutoTokenizer.from_pretrained("artifact")\n```\n\n{sampled}, with at most '
        f"{plan.generation.max_prompt_length} tokens of prompt and {plan.generation.max_response_length} of response."
    )


def _dataset(data: DatasetLineage) -> str:
    lines = [f"**{_plain(data.name)}**: `{_plain(data.ref)}`, {data.used} of {data.rows} rows used."]
    if data.dropped:
        dropped = ", ".join(f"{_plain(reason)} {count}" for reason, count in sorted(data.dropped.items()))
        lines.append(f"Left out: {dropped}.")
    if data.provenance is not None:
        known = data.provenance.dump()
        words = [f"{key} {_plain(_listed(value))}" for key, value in known.items() if value not in (None, [], "")]
        lines.append(f"Provenance: {'; '.join(words)}." if words else "")
    return " ".join(filter(None, lines))


def _training(plan: TrainingPlan, result: Result) -> str:
    block = getattr(plan, plan.algorithm.value.lower())
    settings: dict[str, Any] = {
        "steps": result.step,
        "batch size": plan.training.batch_size,
        "seed": plan.training.seed,
        "precision": plan.compute.precision.value,
        "ranks": result.world_size,
        "engine": result.engine,
        **_flat("optimizer", plan.optimizer.dump()),
        **_flat(plan.algorithm.value.lower(), block.dump() if block is not None else {}),
        **_flat("lora", plan.lora.dump() if plan.lora is not None else {}),
    }
    rewards = [(reward.scorer, reward.weight, reward.normalize.value) for reward in plan.rewards]
    text = _table(("setting", "value"), ((key, _listed(value)) for key, value in settings.items()))
    if rewards:
        text += "\n\nRewards, weighted and added:\n\n" + _table(("scorer", "weight", "normalised by"), rewards)
    figures = [(name, f"{value:.4g}") for name, value in sorted(result.figures.items()) if not name.startswith("eval/")]
    if figures:
        text += "\n\nLast step (KL in nats per response):\n\n" + _table(("figure", "value"), figures)
    return text


def _evaluation(plan: TrainingPlan, comparisons: Sequence[Comparison], judged: Verdict) -> str:
    text = f"Gate: **{judged.gate.value}**. {_plain(judged.message)}"
    if not comparisons:
        return text
    rewards = {reward.scorer for reward in plan.rewards}
    rows = [
        (
            each.scorer + (" (optimised)" if each.scorer in rewards else ""),
            each.baseline,
            f"{each.win_rate:.3f} [{each.lower:.3f}, {each.upper:.3f}]",
            f"{each.mean:.4g}",
            f"{each.baseline_mean:.4g}",
            each.prompts,
        )
        for each in comparisons
    ]
    header = ("scorer", "against", "win rate [95 %]", "mean score", "baseline's", "prompts")
    return f"{text}\n\n{_table(header, rows)}\n\nTies count one half; intervals are bootstraps by prompt."


def _lineage(lineage: Lineage) -> Iterator[tuple[str, str]]:
    yield "plan", lineage.plan_digest
    yield "policy", lineage.policy_digest
    if lineage.base_model is not None:
        yield f"base model `{lineage.base_model.ref}`", lineage.base_model.digest or "not given"
    if lineage.parent is not None:
        yield f"parent `{lineage.parent.ref}`", lineage.parent.digest or "not given"
    yield from ((f"data set {each.name}", each.digest) for each in lineage.datasets)
    yield from ((f"scorer {name}", digest) for name, digest in sorted(lineage.scorers.items()))
    yield "image", lineage.image


def _flat(prefix: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= _flat(f"{prefix}.{key}", value) if isinstance(value, Mapping) else {f"{prefix}.{key}": value}
    return found


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_plain(str(cell)) for cell in line) + " |" for line in lines)


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(text: str) -> str:
    """Text of a user on one line, without what would end a cell, a block or a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
