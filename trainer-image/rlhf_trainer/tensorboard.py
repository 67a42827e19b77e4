"""TensorBoard's event files, written by hand: scalars alone need none of the package that reads them.

A file is a list of records (TFRecord): length, its checksum, data, its checksum. The data is an `Event` in protobuf.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_DOUBLE, _INT, _BYTES, _FLOAT = 1, 0, 2, 5


def _table() -> list[int]:
    found = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return found


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it, for data that holds checksums itself."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, kind: int, data: bytes) -> bytes:
    length = _varint(len(data)) if kind == _BYTES else b""
    return _varint(number << 3 | kind) + length + data


def event(wall_time: float, step: int, figures: Mapping[str, float]) -> bytes:
    """An `Event` with a `Summary` of one scalar per figure."""
    values = b"".join(
        _field(1, _BYTES, _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, struct.pack("<f", value)))
        for name, value in figures.items()
    )
    return _field(1, _DOUBLE, struct.pack("<d", wall_time)) + _field(2, _INT, _varint(step)) + _field(5, _BYTES, values)


def record(data: bytes) -> bytes:
    """One record of a file."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


class EventFile:
    """One run's scalars, in a new file of a folder that TensorBoard is pointed at."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._write(_field(1, _DOUBLE, struct.pack("<d", now)) + _field(3, _BYTES, b"brain.Event:2"))

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Append one step's figures."""
        self._write(event(time.time(), step, figures))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(record(data))
        self._file.flush()
