"""The system calls a JavaScript worker may make: one allow-list, compiled to classic BPF, put on every thread at once.

The filter is deny by default: what is not named answers EPERM, so a library that probes for a call carries on without
it. A foreign instruction set kills the process. Sources: seccomp(2), linux/seccomp.h, linux/filter.h, and the numbers
of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fazt.functions.libc import last_error, libc, syscall

_INSN = struct.Struct("HBBI")  # struct sock_filter: code, jt, jf, k
_LD_WORD, _JUMP_EQ, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_AT_NUMBER, _AT_ARCH, _AT_ARGS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes, low word first
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_PROT_EXEC = 4
# Shared and downward-growing mappings don't count as data: RLIMIT_DATA would not hold them.
_MAP_UNCOUNTED = 0x01 | 0x100
_F_DUPFD_CLOEXEC = 1030
_NO_JUMP = 0


@dataclass(frozen=True, slots=True)
class Arch:
    """One instruction set: its audit number, its system calls, and whether the table was tried on real hardware."""

    name: str
    audit: int
    verified: bool
    numbers: Mapping[str, int]


X86_64 = Arch(
    name="x86_64",
    audit=0xC000003E,
    verified=True,
    numbers={
        "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35,
        "getpid": 39, "pread64": 17, "fcntl": 72, "sendto": 44, "recvfrom": 45, "recvmsg": 47, "exit": 60,
        "gettimeofday": 96, "sigaltstack": 131, "gettid": 186, "futex": 202, "restart_syscall": 219,
        "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "tgkill": 234, "getrandom": 318,
        "seccomp": 317,
    },
)  # fmt: skip
AARCH64 = Arch(
    name="aarch64",
    audit=0xC00000B7,
    verified=False,
    numbers={
        "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sched_yield": 124, "mremap": 216,
        "madvise": 233, "nanosleep": 101, "getpid": 172, "pread64": 67, "fcntl": 25, "sendto": 206, "recvfrom": 207,
        "recvmsg": 212, "exit": 93, "gettimeofday": 169, "sigaltstack": 132, "gettid": 178, "futex": 98,
        "restart_syscall": 128, "clock_gettime": 113, "clock_nanosleep": 115, "exit_group": 94, "tgkill": 131,
        "getrandom": 278, "seccomp": 277,
    },
)  # fmt: skip
_ARCHES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": AARCH64, "arm64": AARCH64}


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on one argument: `equal` to a value, or (`clear`) none of these bits set.

    `wide` compares all 64 bits, which a pointer needs; the kernel itself reads an int argument as 32 bits.
    """

    arg: int
    value: int
    test: Literal["equal", "clear"] = "equal"
    wide: bool = False


Rules = Mapping[str, tuple[Check, ...]]
"""System call name to the conditions that must all hold."""


def current_arch() -> Arch | None:
    """Return the table of the machine this runs on, or None when there is none (or it isn't Linux)."""
    if not sys.platform.startswith("linux") or sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    return _ARCHES.get(platform.machine().lower())


def worker_rules(*, pid: int, sock: int) -> Rules:
    """Return the allow-list of a worker.

    Args:
        pid: its own process id, the only one it may signal (glibc's abort() does, through tgkill).
        sock: descriptor of the socket to the host, the only one it may talk on.

    Both engines make do with it: the native one was tried as well, and asks for nothing more.
    """
    on_sock = Check(0, sock)
    no_exec = Check(2, _PROT_EXEC, "clear")
    counted = Check(3, _MAP_UNCOUNTED, "clear")
    # no flags: out-of-band data and zero-copy are code of the kernel that nobody here needs
    return {
        # the hot ones first: the list is searched in order
        "futex": (),
        "clock_gettime": (),
        "recvfrom": (on_sock, Check(3, 0)),
        "sendto": (on_sock, Check(3, 0), Check(4, 0, wide=True)),  # no destination address
        "clock_nanosleep": (),
        "nanosleep": (),
        "mmap": (no_exec, counted),
        "munmap": (),
        "mprotect": (no_exec,),
        "madvise": (),
        "mremap": (),
        "brk": (),
        "rt_sigreturn": (),
        "rt_sigprocmask": (),
        "rt_sigaction": (),
        "sigaltstack": (),
        "recvmsg": (on_sock, Check(2, 0)),  # the image of the app arrives as a descriptor
        "fcntl": (Check(1, _F_DUPFD_CLOEXEC),),
        "pread64": (),
        "lseek": (),
        "fstat": (),  # by descriptor; the call that takes a name as well is not allowed
        "close": (),
        "getrandom": (),
        "sched_yield": (),
        "gettimeofday": (),
        "getpid": (),
        "gettid": (),
        "tgkill": (Check(0, pid),),
        "restart_syscall": (),
        "exit": (),
        "exit_group": (),
    }


def assemble(arch: Arch, rules: Rules, *, denied: int = errno.EPERM) -> bytes:
    """Compile an allow-list into a classic BPF program.

    Args:
        arch: the instruction set whose numbers to use; any other kills the process.
        rules: what is allowed, and when.
        denied: errno of everything else.

    Raises:
        KeyError: a name without a number on this instruction set.
    """
    out = [_load(_AT_ARCH), _branch(arch.audit, yes=1), _return(_KILL_PROCESS), _load(_AT_NUMBER)]
    for name, checks in rules.items():
        block = [insn for check in checks for insn in _compile_check(check, denied)]
        # the accumulator holds an argument after a check: a failed check must answer, not fall to the next number
        block.append(_return(_ALLOW))
        out.append(_branch(arch.numbers[name], no=len(block)))
        out += block
    out.append(_return(_ERRNO | denied))
    return b"".join(out)


def _compile_check(check: Check, denied: int) -> list[bytes]:
    low = _AT_ARGS + 8 * check.arg
    refuse = _return(_ERRNO | denied)
    if check.test == "clear":
        return [_load(low), _INSN.pack(_JUMP_SET, 0, 1, check.value), refuse]
    out = [_load(low), _branch(check.value & 0xFFFFFFFF, yes=1), refuse]
    if check.wide:
        out += [_load(low + 4), _branch(check.value >> 32, yes=1), refuse]
    return out


def _load(offset: int) -> bytes:
    return _INSN.pack(_LD_WORD, 0, 0, offset)


def _branch(value: int, *, yes: int = _NO_JUMP, no: int = _NO_JUMP) -> bytes:
    return _INSN.pack(_JUMP_EQ, yes, no, value)


def _return(action: int) -> bytes:
    return _INSN.pack(_RETURN, 0, 0, action)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))  # struct sock_fprog


def install(arch: Arch, program: bytes) -> None:
    """Put a filter on every thread of this process (no_new_privs must be set).

    There is no way to do it for the calling thread alone: a thread started earlier would keep its sockets.

    Raises:
        OSError: the kernel refused, or one thread could not be brought under the filter.
    """
    if libc is None:
        raise OSError(errno.ENOSYS, "no seccomp on this platform")
    buffer = ctypes.create_string_buffer(program, len(program))
    prog = _Program(len(program) // _INSN.size, ctypes.addressof(buffer))
    result = syscall(arch.numbers["seccomp"], _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.addressof(prog))
    if result < 0:
        raise last_error("seccomp with TSYNC")
    if result > 0:  # seccomp(2): the id of a thread that could not be synchronised; nothing was installed
        raise OSError(errno.ESRCH, f"seccomp: thread {result} could not be synchronised")
