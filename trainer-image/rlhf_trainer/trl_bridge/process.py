"""What accelerate and Transformers keep for a whole process: who the ranks are, and whether DeepSpeed is on."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlhf_operator.api.plan import PlanCompute
from rlhf_trainer.engine import import_deepspeed


@contextmanager
def library_state(compute: PlanCompute) -> Iterator[None]:
    """Tell accelerate of the process group that was joined; behind it, leave nothing of the settings to later models.

    A plan of ZeRO-3 makes Transformers partition every model that is loaded while its settings are alive.
    """
    unset_hf_deepspeed_config()
    _tell_accelerate(compute)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        # Trainers live in cycles; their memory is wanted now.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def whole_models(settings: Any) -> Iterator[None]:
    """For a while, let Transformers make whole models and generate without peers. settings: DeepSpeed's, or None.

    While ZeRO-3's are alive it partitions what it makes and generates in step with all ranks: one alone hangs.
    """
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if settings is not None:
            set_hf_deepspeed_config(settings)


def _tell_accelerate(compute: PlanCompute) -> None:
    """By itself accelerate finds DeepSpeed's ranks on GPUs only: on CPUs it takes each rank for the only one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    if compute.zero_stage > 0 and compute.gpus_per_worker == 0:
        # Before accelerate does: it would build the op that is switched off there.
        import_deepspeed()
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
