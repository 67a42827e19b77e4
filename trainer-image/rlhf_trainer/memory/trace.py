"""Peak memory of a computation, found by running it on tensors that have a shape and no storage.

The trainer's own modules are run, so the figure follows the architecture, recomputation and precision without a formula
for each. What a kernel takes for itself and what an allocator wastes are not seen.
"""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@contextmanager
def without_storage() -> Iterator[None]:
    """Tensors made inside have no storage: a 70 B model takes no memory."""
    with FakeTensorMode():
        yield


class PeakOf(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and the most that lived at once."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """known: tensors that are counted elsewhere, weights above all."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {_key(tensor) for tensor in known}
        self._sizes: dict[int, int] = {}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what it made."""
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._known or key in self._sizes:
            return
        storage = tensor.untyped_storage()
        self._sizes[key] = storage.nbytes()
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def peak_bytes(module: nn.Module, run: Callable[[], object]) -> int:
    """Most bytes beside the module's own weights that `run` holds at once; gradients that it leaves count.

    To be called inside `without_storage`.
    """
    with PeakOf([*module.parameters(), *module.buffers()]) as counted:
        run()
    module.zero_grad(set_to_none=True)
    # Views and graphs live in cycles now and then; the next trace starts from nothing.
    gc.collect()
    return int(counted.peak)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def sum_backward(tensor: Tensor) -> None:
    """Differentiate as a loss would: from every element back."""
    torch.sum(tensor).backward()
