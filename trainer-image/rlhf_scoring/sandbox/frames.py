"""Frames between the pool and its workers: four bytes of length, then JSON. No pickle crosses this line."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
REQUEST_BYTES = 64 * 1024 * 1024
REPLY_BYTES = 64 * 1024


class FrameError(Exception):
    """What arrived is not a frame, or is larger than allowed."""


def encode(message: dict[str, Any], limit: int = REQUEST_BYTES) -> bytes:
    """One message as a frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > limit:
        raise FrameError(f"a message of {len(body)} bytes, more than {limit}")
    return _LENGTH.pack(len(body)) + body


def decode(buffer: bytearray, limit: int) -> dict[str, Any] | None:
    """Take one whole message out of the buffer; None while it has not arrived."""
    if len(buffer) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    if length > limit:
        raise FrameError(f"a message of {length} bytes, more than {limit}")
    end = _LENGTH.size + length
    if len(buffer) < end:
        return None
    body = bytes(buffer[_LENGTH.size : end])
    del buffer[:end]
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError("a message that is not JSON") from error
    if not isinstance(message, dict):
        raise FrameError("a message that is not an object")
    return message


def receive(connection: socket.socket, buffer: bytearray, limit: int) -> dict[str, Any] | None:
    """Block until one whole message has arrived; None at the end of the stream."""
    while (message := decode(buffer, limit)) is None:
        data = connection.recv(1 << 16)
        if not data:
            return None
        buffer += data
    return message
