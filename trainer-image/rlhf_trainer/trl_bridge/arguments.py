"""Arguments that every TRL trainer gets from the plan. What an algorithm adds is in its own table."""

from typing import Any

from rlhf_operator.api.algorithms import Optimizer
from rlhf_operator.api.plan import PlanCompute
from rlhf_operator.api.pods import Precision
from rlhf_trainer.engine import import_deepspeed, zero_config


def common_arguments(
    optimizer: Optimizer,
    compute: PlanCompute,
    *,
    batch_size: int,
    micro_batch_size: int,
    steps: int,
    seed: int,
    scratch: str,
    updates: int = 1,
) -> dict[str, Any]:
    """Keyword arguments of any TRL config: `steps` steps, each of so many optimizer steps (`updates`).

    batch_size: rows of one optimizer step over all ranks; micro_batch_size: rows at a time on one rank.
    """
    accumulation = batch_size // compute.world_size // micro_batch_size
    on_cpu = compute.gpus_per_worker == 0
    deepspeed = None
    if compute.zero_stage > 0:
        import_deepspeed()
        config = zero_config(compute, optimizer.max_grad_norm, accumulation)
        deepspeed = {**config, "train_micro_batch_size_per_gpu": micro_batch_size}
    return {
        "output_dir": scratch,
        # With this flag accelerate would drop DeepSpeed without a word; without a GPU it uses the CPU anyway.
        "use_cpu": on_cpu and deepspeed is None,
        "deepspeed": deepspeed,
        "accelerator_config": {"use_configured_state": deepspeed is not None and on_cpu},
        "bf16": compute.precision is Precision.BF16,
        "gradient_checkpointing": compute.gradient_checkpointing,
        "max_steps": steps * updates,
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "max_grad_norm": optimizer.max_grad_norm,
        "optim": "adamw_torch",
        "seed": seed,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        # Once per step; a loss that is no number is shown as it is.
        "logging_strategy": "steps",
        "logging_steps": updates,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
