"""How fast a step was: tokens per second, and how much of the GPUs' arithmetic it used."""

import torch
from torch import nn

from rlhf_operator.api.pods import Precision

# Dense FLOP/s of one GPU in bf16 and float32 (without TF32), as its data sheet says; the first name that fits counts.
_PEAKS = (
    ("B200", 2250e12, 80e12),
    ("H200", 989e12, 67e12),
    ("H100 PCIe", 756e12, 51e12),
    ("H100", 989e12, 67e12),
    ("A100", 312e12, 19.5e12),
    ("L40S", 362e12, 91.6e12),
    ("A10G", 70e12, 35e12),
    ("A10", 125e12, 31.2e12),
    ("L4", 121e12, 30.3e12),
)
# Forward and backward passes per token and parameter (Kaplan et al. 2020, section 2.1).
FORWARD_FLOPS, TRAIN_FLOPS = 2, 6


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """The device's FLOP/s; None without a GPU, or for one that is not known here."""
    if device.type != "cuda":
        return None
    return known_peak(torch.cuda.get_device_name(device), precision)


def known_peak(name: str, precision: Precision) -> float | None:
    """FLOP/s of a GPU by its name."""
    found = next(((low, full) for known, low, full in _PEAKS if known in name), None)
    return None if found is None else found[precision is Precision.FP32]


def parameter_count(module: nn.Module) -> int:
    """Parameters of a whole module, partitioned or not."""
    return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for parameter in module.parameters())


def speed(generated: float, trained: float, seconds_generate: float, seconds_update: float) -> dict[str, float]:
    """Tokens per second over all ranks while generating, and while updating (each epoch counts)."""
    return {
        "generatedTokensPerSecond": generated / max(seconds_generate, 1e-9),
        "trainedTokensPerSecond": trained / max(seconds_update, 1e-9),
    }
