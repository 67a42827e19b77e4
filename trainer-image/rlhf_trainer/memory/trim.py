"""Giving freed memory back to the system, where the pod's limit is what counts."""

import ctypes

import torch


def give_back(device: torch.device) -> None:
    """Return the heap's free pages; does nothing for a GPU, or where the C library is not glibc.

    A cache that grows with every token leaves holes that nothing larger fits into. *Measured* with 35 M parameters:
    430 MB more of resident memory behind a generation whose cache had 50 MB.
    """
    if device.type != "cpu":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
