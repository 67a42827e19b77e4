"""The estimate against what there is: a table for people, and a refusal before anything is loaded."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_operator.api.algorithms import Algorithm
from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.pods import Offload
from rlhf_trainer.cgroup import memory_limit_bytes
from rlhf_trainer.errors import ConfigError, TrainerError
from rlhf_trainer.plans import read_plan
from rlhf_trainer.progress import say

from .parts import Estimate, Phase, estimate

if TYPE_CHECKING:
    import torch

CHECK_VARIABLE = "RLHF_MEMORY_CHECK"
"""`Warn` lets a run start whose estimate is over the limit."""

_GIB = 1 << 30
_NAMED = 3
_SMALL_BYTES = 16 << 20


def main(arguments: argparse.Namespace) -> int:
    """Print a plan's table; the exit code is Config's when --device-memory is less than the peak."""
    try:
        plan = read_plan(arguments.plan)
        if not isinstance(plan, TrainingPlan) or plan.algorithm is not Algorithm.PPO:
            raise ConfigError("estimate is for the plan of an RLHFJob with ppo; others are not estimated yet")
        if arguments.base_model is not None:
            base = plan.base_model.model_copy(update={"path": str(arguments.base_model.resolve())})
            plan = plan.model_copy(update={"base_model": base})
        found = estimate_of(plan, arguments.micro_batch_size)
        print(table(found, plan))
        if arguments.device_memory is not None:
            refuse_too_much(found, plan, arguments.device_memory, host=False)
    except TrainerError as error:
        print(error.message, file=sys.stderr)
        return int(error.exit_code)
    return 0


def check_memory(plan: TrainingPlan, micro_batch_size: int, device: "torch.device") -> None:
    """Say what this rank will need, and raise ConfigError when that is more than its device or its pod has."""
    import torch

    from .sizes import stored_bytes

    # Tracing takes seconds, and a model of nothing fits anywhere.
    if plan.algorithm is not Algorithm.PPO or stored_bytes(Path(plan.base_model.path)) < _SMALL_BYTES:
        return
    found = estimate_of(plan, micro_batch_size)
    pod = memory_limit_bytes()
    limits = {True: None if pod is None else pod // plan.compute.procs_per_worker}
    if device.type == "cuda":
        limits[False] = torch.cuda.get_device_properties(device).total_memory
    else:
        # One memory for all: the parts are not told apart.
        limits = {False: limits[True]}
    phase, peak = found.peak()
    parts = {part.name: part.bytes for part in found.at_peak()}
    say("memory-estimate", peakBytes=peak, limitBytes=limits[False], phase=phase, parts=parts)
    for host, limit in limits.items():
        try:
            if limit is not None:
                refuse_too_much(found, plan, limit, host=host)
        except ConfigError as error:
            if os.environ.get(CHECK_VARIABLE) != "Warn":
                raise
            say("memory-warning", message=error.message)


def estimate_of(plan: TrainingPlan, micro_batch_size: int) -> Estimate:
    """The parts of a plan's fullest rank. Raises ConfigError when the base model's files can't be read."""
    # Here and not at the top: torch and transformers take seconds to import.
    from .sizes import sizes_of

    return estimate(sizes_of(plan, micro_batch_size), plan.compute)


def refuse_too_much(found: Estimate, plan: TrainingPlan, limit: int, *, host: bool) -> None:
    """Raise ConfigError when the peak is over the limit, naming what is greatest and what would help."""
    phase, peak = found.peak(host=host)
    if peak <= limit:
        return
    greatest = ", ".join(f"{part.name} {_gib(part.bytes)}" for part in found.at_peak(host=host)[:_NAMED])
    where = "pod" if host or plan.compute.gpus_per_worker == 0 else "device"
    raise ConfigError(
        f"a rank would need {_gib(peak)} of the {where}'s memory to {phase}, and has {_gib(limit)}: {greatest}. "
        f"{_advice(found, plan, host=host)} ({CHECK_VARIABLE}=Warn starts it nevertheless)",
        reason="NotEnoughMemory",
    )


def _advice(found: Estimate, plan: TrainingPlan, *, host: bool) -> str:
    """What to change, by what is greatest at the peak."""
    compute, (phase, _) = plan.compute, found.peak(host=host)
    moving = sum(part.bytes for part in found.at_peak(host=host) if part.phase is not Phase.ALWAYS)
    standing = sum(part.bytes for part in found.at_peak(host=host) if part.phase is Phase.ALWAYS)
    ways = []
    if moving > standing and phase is not Phase.SAVE:
        ways.append("a smaller training.microBatchSize")
        if phase is Phase.UPDATE and not compute.gradient_checkpointing:
            ways.append("compute.gradientCheckpointing: true")
        ways.append("a smaller generation.maxResponseLength or maxPromptLength")
    if not host and compute.world_size > 1 and compute.zero_stage < 3:
        ways.append(f"compute.zeroStage: {3 if compute.zero_stage else 2}")
    if not host and compute.gpus_per_worker and compute.zero_stage and compute.offload is Offload.NONE:
        ways.append("compute.offload: Optimizer")
    if compute.world_size == 1 or compute.zero_stage:
        ways.append("more compute.workers")
    ways.append("more memory" if host or compute.gpus_per_worker == 0 else "a larger GPU")
    return "What helps: " + ", ".join(ways)


def table(found: Estimate, plan: TrainingPlan) -> str:
    """The parts of one rank as text, the greatest first, for the device and for the pod where they differ."""
    lines = []
    for host in sorted({part.host for part in found.parts}):
        phase, peak = found.peak(host=host)
        where = "pod" if host or plan.compute.gpus_per_worker == 0 else "device"
        lines.append(f"{where}, each of {plan.compute.world_size} ranks (peak in phase: {phase})")
        lines += [f"  {part.name:<44}{part.phase:<10}{_gib(part.bytes):>12}" for part in found.at_peak(host=host)]
        lines.append(f"  {'peak':<54}{_gib(peak):>12}")
    return "\n".join(lines)


def _gib(count: int) -> str:
    return f"{count / _GIB:.2f} GiB"
