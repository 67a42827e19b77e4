"""One trained model and its optimizer, whole or partitioned over the ranks. The loss comes from an algorithm.

Two engines with one face: `PlainEngine` holds the whole model on every rank and sums gradients itself; `ZeroEngine` is
DeepSpeed's. Losses arrive already divided by the token count of the whole optimizer step, so gradients are summed over
ranks and micro-batches, never averaged.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_operator.api.algorithms import Optimizer
from rlhf_operator.api.plan import PlanCompute
from rlhf_operator.api.pods import Offload, Precision

from .distributed import Group
from .errors import ConfigError

_EPSILON = 1e-8


class Engine(ABC):
    """A model that learns. Every method is called by all ranks together."""

    name: str
    """File name of its state in a checkpoint."""
    module: nn.Module

    @abstractmethod
    def __call__(self, *inputs: Any) -> Any:
        """Run the model forward."""

    @abstractmethod
    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch; `loss` is its part of the optimizer step's loss."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradients. Returns the gradient's norm before clipping."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write this rank's part of the model and the optimizer under `directory`."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Return the module's whole parameters and buffers by name, on every rank, on the CPU."""

    @abstractmethod
    def whole(self) -> AbstractContextManager[nn.Module]:
        """Give the whole module for generation, however it is partitioned."""

    @abstractmethod
    def describe(self) -> str:
        """Class of the engine with its ZeRO stage, as found on the living object."""


class PlainEngine(Engine):
    """The whole model on every rank; gradients are summed once per optimizer step."""

    def __init__(self, name: str, module: nn.Module, optimizer: Optimizer, group: Group, precision: Precision) -> None:
        """Take a module whose parameters are float32; with bf16 the forward pass runs under autocast."""
        self.name = name
        self.module = module.to(group.device)
        self._group = group
        self._max_norm = optimizer.max_grad_norm
        self._optimizer = _adamw(self.module, optimizer)
        self._autocast = precision is Precision.BF16

    def __call__(self, *inputs: Any) -> Any:
        """Run the model forward."""
        if not self._autocast:
            return self.module(*inputs)
        with torch.autocast(self._group.device.type, dtype=torch.bfloat16):
            return self.module(*inputs)

    def accumulate(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        loss.backward()

    def step(self, learning_rate: float) -> float:
        """Sum over ranks, clip, update. A gradient that is not finite changes nothing."""
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if self._group.world_size > 1:
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
            parts = self._group.sum(flat, "the sum of gradients").split([p.numel() for p in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        norm = float(nn.utils.clip_grad_norm_(parameters, self._max_norm))
        if norm == norm and norm != float("inf"):
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def save(self, directory: Path) -> None:
        """Every rank holds the same: rank 0 writes it."""
        if self._group.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            state = {"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, directory / f"{self.name}.pt")

    def load(self, directory: Path) -> None:
        """Read tensors and numbers only; nothing in the file is run."""
        state = torch.load(directory / f"{self.name}.pt", map_location=self._group.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> Mapping[str, Tensor]:
        """Return the module's state on the CPU."""
        return {name: value.detach().cpu() for name, value in self.module.state_dict().items()}

    @contextmanager
    def _whole(self) -> Iterator[nn.Module]:
        if self._autocast:
            with torch.autocast(self._group.device.type, dtype=torch.bfloat16):
                yield self.module
        else:
            yield self.module

    def whole(self) -> AbstractContextManager[nn.Module]:
        """Give the module itself."""
        return self._whole()

    def describe(self) -> str:
        """Name the engine."""
        return f"{type(self).__name__}(world={self._group.world_size})"


class ZeroEngine(Engine):
    """DeepSpeed ZeRO stage 2 (optimizer and gradients partitioned) or 3 (weights too)."""

    def __init__(
        self, name: str, module: nn.Module, optimizer: Optimizer, group: Group, compute: PlanCompute, accumulation: int
    ) -> None:
        """Start a DeepSpeed engine; `accumulation` is the number of micro-batches of one optimizer step."""
        deepspeed = import_deepspeed()
        self.name = name
        self.module = module
        self._group = group
        self._stage = compute.zero_stage
        self._replica: nn.Module | None = None
        device = None if group.device.type == "cpu" else group.device
        self._engine: Any = deepspeed.initialize(
            model=module.to(device) if device is not None else module,
            optimizer=_adamw(module, optimizer),
            config=zero_config(compute, optimizer.max_grad_norm, accumulation),
            dist_init_required=False,
        )[0]
        self._engine.checkpoint_engine = plain_data_files()
        check_engine(self._engine, compute)

    def __call__(self, *inputs: Any) -> Any:
        """Run the model forward."""
        return self._engine(*inputs)

    def accumulate(self, loss: Tensor) -> None:
        """Add one micro-batch. DeepSpeed averages over ranks; the factor makes it the sum that this loss is cut for."""
        self._engine.backward(loss * self._group.world_size, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Clip and update; the last `accumulate` was the boundary."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def save(self, directory: Path) -> None:
        """Every rank writes its partition."""
        directory.mkdir(parents=True, exist_ok=True)
        self._engine.save_checkpoint(str(directory), tag=self.name, save_latest=False)

    def load(self, directory: Path) -> None:
        """Read this rank's partition."""
        path, _ = self._engine.load_checkpoint(str(directory), tag=self.name, load_lr_scheduler_states=False)
        if path is None:
            raise ConfigError(f"checkpoint: DeepSpeed found no state of {self.name} in {directory}")

    def weights(self) -> Mapping[str, Tensor]:
        """Gather the partitioned parameters."""
        return gathered_weights(self.module)

    @contextmanager
    def _whole(self) -> Iterator[nn.Module]:
        if self._stage < 3:
            yield self.module
            return
        replica = self._whole_replica()
        copy_whole(self.module, replica)
        yield replica

    def whole(self) -> AbstractContextManager[nn.Module]:
        """Give the module, under stage 3 a copy filled from gathered parameters: generation then needs no peers."""
        return self._whole()

    def keep_replica(self, replica: nn.Module) -> None:
        """Use this unpartitioned module of the same shape for `whole`."""
        self._replica = replica.to(self._group.device, next(self.module.parameters()).dtype).eval()

    def _whole_replica(self) -> nn.Module:
        if self._replica is None:
            raise RuntimeError(f"engine {self.name} was given no replica to gather into")
        return self._replica

    def describe(self) -> str:
        """Name the engine by what was found on it."""
        return describe_zero(self._engine)


def describe_zero(engine: Any) -> str:
    """Class of a DeepSpeed engine with its stage, as found on the living object."""
    return (
        f"{type(engine).__name__}(stage={engine.zero_optimization_stage()}, "
        f"partitions={_partitions(engine)}, world={int(engine.dp_world_size)})"
    )


@torch.no_grad()
def copy_whole(partitioned: nn.Module, replica: nn.Module) -> None:
    """Copy a partitioned module's whole parameters into an unpartitioned one of the same shape, one at a time."""
    targets = dict(replica.named_parameters(remove_duplicate=False))
    for name, parameter in partitioned.named_parameters(remove_duplicate=False):
        with _gathered(parameter):
            targets[name].copy_(parameter)


def gathered_weights(module: nn.Module) -> dict[str, Tensor]:
    """A module's whole parameters and buffers on the CPU, on every rank, partitioned or not.

    One parameter at a time, so that no rank holds the model twice on its device.
    """
    found = {}
    for name, value in module.state_dict(keep_vars=True).items():
        with _gathered(value):
            found[name] = value.detach().cpu().clone()
    return found


def _gathered(value: Tensor) -> AbstractContextManager[Any]:
    if not hasattr(value, "ds_id"):
        return nullcontext()
    context: AbstractContextManager[Any] = import_deepspeed().zero.GatheredParameters([value])
    return context


def import_deepspeed() -> Any:
    """Import DeepSpeed without its shared-memory all-reduce.

    That op is compiled at the first start (30 s and a compiler in the image), behind a lock file that a killed process
    leaves locked for ever; and it serves only ranks that share one host.
    """
    import deepspeed

    # DeepSpeed's calls, not ours; without this every collective prints two lines.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_engine(engine: Any, compute: PlanCompute) -> None:
    """Refuse to train on anything but what the plan asks for: a run that says ZeRO and is plain replication lies."""
    found = {
        "class": type(engine).__name__,
        "zeroStage": int(engine.zero_optimization_stage()),
        "partitions": _partitions(engine),
        "world": int(engine.dp_world_size),
    }
    expected = {
        "class": "DeepSpeedEngine",
        "zeroStage": compute.zero_stage,
        "partitions": compute.world_size,
        "world": compute.world_size,
    }
    wrong = [f"{key} is {found[key]}, not {expected[key]}" for key in expected if found[key] != expected[key]]
    if compute.zero_stage == 3:
        whole = [name for name, value in engine.module.named_parameters() if not hasattr(value, "ds_id")]
        wrong += [f"{name} is not partitioned" for name in whole[:3]]
    if wrong:
        raise ConfigError(
            "compute.zeroStage: DeepSpeed did not start as the plan asks: " + "; ".join(wrong), reason="NotSharded"
        )


def _partitions(engine: Any) -> int:
    count = engine.optimizer.partition_count
    return int(count[0] if isinstance(count, list) else count)


def _adamw(module: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=_EPSILON,
        weight_decay=settings.weight_decay,
        foreach=False,
    )


def zero_config(compute: PlanCompute, max_grad_norm: float | None, accumulation: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a plan, for micro-batches of one size."""
    zero: dict[str, Any] = {"stage": compute.zero_stage}
    if compute.zero_stage == 3:
        # The last gather must see this update's weights, and small parameters must be partitioned like all others.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": False}
    if compute.offload is not Offload.NONE:
        zero["offload_optimizer"] = {"device": "cpu"}
    if compute.offload is Offload.OPTIMIZER_AND_PARAMETERS:
        zero["offload_param"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": compute.precision is Precision.BF16},
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    if max_grad_norm is not None:
        config["gradient_clipping"] = max_grad_norm
    return config


def plain_data_files() -> Any:
    """DeepSpeed's file layer, reading tensors, numbers and a few named types of its own instead of any pickle."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    class PlainDataCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
        def load(self, path: str, map_location: Any = None) -> Any:
            with torch.serialization.safe_globals(_deepspeed_types()):
                return torch.load(path, map_location=map_location, weights_only=True)

    engine = PlainDataCheckpointEngine()
    engine.zipfile_serialization = True
    return engine


def _deepspeed_types() -> list[Any]:
    from argparse import Namespace

    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address, Namespace]


def reference_engine(module: nn.Module, group: Group, compute: PlanCompute) -> Callable[..., Any]:
    """Return a frozen model to call, computed in the policy's precision, or KL would show the rounding.

    Partitioned like the policy under stage 3, whole on every rank otherwise.
    """
    module.requires_grad_(False)
    module.eval()
    low = compute.precision is Precision.BF16
    if compute.zero_stage == 0:
        module.to(group.device)
        return torch.autocast(group.device.type, dtype=torch.bfloat16)(module.__call__) if low else module
    if compute.zero_stage == 2:
        return module.to(group.device, torch.bfloat16 if low else torch.float32)
    deepspeed = import_deepspeed()
    config = zero_config(compute, None, 1)
    engine: Callable[..., Any] = deepspeed.initialize(model=module, config=config, dist_init_required=False)[0]
    return engine
