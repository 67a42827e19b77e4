"""Randomness that belongs to a row: keyed noise, seeds and orders. World size and batching change no draw.

Everything here is a pure function of numbers that a resume knows again, so no generator state is ever saved.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# 23 bits: (k + ½) / 2²³ is exact in float32 and stays strictly between 0 and 1, so no draw is ±infinity.
_BITS = 23


def derive_seed(*parts: int | str) -> int:
    """Return 63 bits that depend on every part and on their order."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _signed(value: int) -> int:
    """The 64-bit two's complement of an unsigned number, as torch's int64 holds it."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mix(values: Tensor) -> Tensor:
    """SplitMix64's finalizer (Steele et al. 2014) on int64; multiplication wraps."""
    values = (values ^ _shift_right(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shift_right(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shift_right(values, 31)


def row_keys(seed: int, stream: str, update: int, rows: Tensor) -> Tensor:
    """Return one key per row: a function of the seed, what is sampled, the update, and the global row number.

    rows: [batch] int64. Returns [batch] int64.
    """
    base = _signed(derive_seed(seed, stream, update))
    return _mix(_mix(rows + base) + _signed(_GOLDEN))


def gumbel_noise(keys: Tensor, position: int, vocabulary: int) -> Tensor:
    """Standard Gumbel noise for one position of every row: arg max(logits + noise) is a draw from softmax(logits).

    keys: [batch] int64 from `row_keys`. Returns [batch, vocabulary] float32.
    """
    at_position = _mix(keys + _signed((position + 1) * _GOLDEN))
    tokens = torch.arange(1, vocabulary + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _shift_right(_mix(at_position.unsqueeze(1) + tokens), 64 - _BITS)
    uniform = (bits.to(torch.float32) + 0.5) / float(1 << _BITS)
    return -torch.log(-torch.log(uniform))


def permutation(count: int, *key: int | str) -> Tensor:
    """Return a permutation of 0 … count − 1 that depends on the key only. Shape [count], int64, on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(*key))
    return torch.randperm(count, generator=generator)


class DataOrder:
    """Which row of a data set comes at which place: a function of (seed, epoch, index) and of nothing else."""

    def __init__(self, rows: int, seed: int, stream: str) -> None:
        if rows < 1:
            raise ValueError("a data order needs at least one row")
        self._rows = rows
        self._seed = seed
        self._stream = stream
        self._epoch = -1
        self._order: list[int] = []

    def at(self, place: int) -> int:
        """Return the row at an absolute place; each epoch is shuffled anew."""
        epoch, index = divmod(place, self._rows)
        if epoch != self._epoch:
            self._order = permutation(self._rows, self._seed, self._stream, epoch).tolist()
            self._epoch = epoch
        return self._order[index]

    def rows(self, start: int, count: int) -> list[int]:
        """Return the rows at `count` places from `start` on."""
        return [self.at(place) for place in range(start, start + count)]
