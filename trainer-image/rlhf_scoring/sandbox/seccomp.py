"""The system-call filter that a grader's worker installs on itself. Linux on x86-64 and aarch64."""

import ctypes
import errno
import os
import platform
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
_NR_OFFSET = 0
_ARCH_OFFSET = 4
_ARGS_OFFSET = 16

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K


class Call(IntEnum):
    """The system calls that the filter looks at; the value is their place in `_NUMBERS`."""

    SOCKET = 0
    SOCKETPAIR = 1
    CLONE = 2
    CLONE3 = 3
    FORK = 4
    VFORK = 5
    EXECVE = 6
    EXECVEAT = 7
    KILL = 8
    TKILL = 9
    TGKILL = 10
    PIDFD_SEND_SIGNAL = 11
    PTRACE = 12
    IO_URING_SETUP = 13
    PROCESS_VM_WRITEV = 14
    PRLIMIT64 = 15
    SETRLIMIT = 16
    PROCESS_VM_READV = 17


# -1: the architecture has no such call.
_NUMBERS = {
    "x86_64": (0xC000003E, (41, 53, 56, 435, 57, 58, 59, 322, 62, 200, 234, 424, 101, 425, 311, 302, 160, 310)),
    "aarch64": (0xC00000B7, (198, 199, 220, 435, -1, -1, 221, 281, 129, 130, 131, 424, 117, 425, 271, 261, 164, 270)),
}


@dataclass(frozen=True, slots=True)
class _Only:
    """Allow a call only when (args[argument] & mask) == value; refuse it otherwise."""

    call: Call
    argument: int
    value: int
    mask: int = 0xFFFFFFFF


def install() -> None:
    """Filter this process for good: sockets other than AF_UNIX, new processes and signals to others are refused.

    Raises OSError where the kernel or the architecture does not take the filter.
    """
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"no system-call filter for {machine}")
    arch, numbers = _NUMBERS[machine]
    code = _program(arch, numbers)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: unsigned short len; struct sock_filter *filter
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def _program(arch: int, numbers: tuple[int, ...]) -> bytes:
    refuse = _ERRNO | errno.EPERM
    lines = [
        _line(_LOAD, _ARCH_OFFSET),
        _line(_JUMP_EQUAL, arch, skip_if_true=1),
        _line(_RETURN, refuse),
        _line(_LOAD, _NR_OFFSET),
        # x32: the same calls under other numbers.
        _line(_JUMP_AT_LEAST, _X32_BIT, skip_if_false=1),
        _line(_RETURN, refuse),
        # glibc falls back to clone, whose flags a filter can read.
        *_always(numbers[Call.CLONE3], _ERRNO | errno.ENOSYS),
    ]
    for only in (
        _Only(Call.SOCKET, 0, socket.AF_UNIX),
        _Only(Call.SOCKETPAIR, 0, socket.AF_UNIX),
        _Only(Call.CLONE, 0, _CLONE_THREAD, mask=_CLONE_THREAD),
        _Only(Call.TGKILL, 0, os.getpid()),
        _Only(Call.KILL, 0, os.getpid()),
    ):
        lines += _conditional(numbers[only.call], only, refuse)
    for call in (
        Call.FORK,
        Call.VFORK,
        Call.EXECVE,
        Call.EXECVEAT,
        Call.TKILL,
        Call.PIDFD_SEND_SIGNAL,
        Call.PTRACE,
        Call.IO_URING_SETUP,
        Call.PROCESS_VM_READV,
        Call.PROCESS_VM_WRITEV,
        Call.SETRLIMIT,
    ):
        if numbers[call] >= 0:
            lines += _always(numbers[call], refuse)
    # prlimit64 also reads limits, which is harmless; its third argument is null then.
    lines += _conditional(numbers[Call.PRLIMIT64], _Only(Call.PRLIMIT64, 2, 0), refuse)
    lines.append(_line(_RETURN, _ALLOW))
    return b"".join(lines)


def _always(number: int, action: int) -> list[bytes]:
    return [_line(_JUMP_EQUAL, number, skip_if_false=1), _line(_RETURN, action)]


def _conditional(number: int, only: _Only, refuse: int) -> list[bytes]:
    return [
        _line(_JUMP_EQUAL, number, skip_if_false=5),
        _line(_LOAD, _ARGS_OFFSET + 8 * only.argument),
        _line(_AND, only.mask),
        _line(_JUMP_EQUAL, only.value, skip_if_false=1),
        _line(_RETURN, _ALLOW),
        _line(_RETURN, refuse),
    ]


def _line(code: int, value: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, value)
