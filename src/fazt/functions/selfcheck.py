"""Attempts to break out of a sealed worker, made by the worker itself before it is used.

Each attempt is a system call with arguments that would do no harm if it went through. The filter answers EPERM to
what it doesn't allow; without the filter nearly all of these would succeed or answer something else (EFAULT, EINVAL,
ENOENT, ESRCH, ENOTSOCK), so a hole shows whichever layer has it.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from dataclasses import dataclass

from fazt.functions.libc import errno_now, syscall

_AF_UNIX, _AF_INET, _SOCK_STREAM = 1, 2, 1
_AT_FDCWD = -100
_PAGE = 4096
_READ_WRITE, _EXEC = 3, 4
_PRIVATE_ANONYMOUS = 0x22
_ROOT = ctypes.create_string_buffer(b"/")
_SCRATCH = ctypes.create_string_buffer(512)

# name -> (x86_64, aarch64); None where the architecture has no such call
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "sendmsg": (46, 211),
    "sendto": (44, 206), "recvfrom": (45, 207), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "newfstatat": (262, 79), "readlinkat": (267, 78), "getcwd": (79, 17), "ioctl": (16, 29), "dup": (32, 23),
    "fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "ptrace": (101, 117), "process_vm_readv": (310, 270), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "pidfd_open": (434, 434), "io_uring_setup": (425, 425),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "bpf": (321, 280), "userfaultfd": (323, 282),
    "memfd_create": (319, 279), "perf_event_open": (298, 241), "prctl": (157, 167), "keyctl": (250, 219),
    "setresuid": (117, 147), "prlimit64": (302, 261), "shmget": (29, 194), "mmap": (9, 222), "mprotect": (10, 226),
    "pkey_mprotect": (329, 288), "personality": (135, 92), "write": (1, 64), "read": (0, 63),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attempt:
    """One system call that must be refused."""

    name: str
    number: int
    args: tuple[int, ...]


def attempts(arch: str, *, pid: int, parent: int) -> tuple[Attempt, ...]:
    """List what to try on this architecture.

    Args:
        arch: "x86_64" or "aarch64".
        pid: the worker's own process id.
        parent: a process that it must not be able to signal.
    """
    root, scratch = ctypes.addressof(_ROOT), ctypes.addressof(_SCRATCH)
    page = _writable_page(arch)
    tries: Sequence[tuple[str, str, tuple[int, ...]]] = (
        ("network socket", "socket", (_AF_INET, _SOCK_STREAM, 0)),
        ("unix socket", "socket", (_AF_UNIX, _SOCK_STREAM, 0)),
        ("socket pair", "socketpair", (_AF_UNIX, _SOCK_STREAM, 0, scratch)),
        ("connect", "connect", (2, 0, 0)),
        ("send a descriptor", "sendmsg", (2, 0, 0)),
        ("send on another descriptor", "sendto", (2, 0, 0, 0, 0, 0)),
        ("receive on another descriptor", "recvfrom", (2, 0, 0, 0, 0, 0)),
        ("open a file", "openat", (_AT_FDCWD, root, 0, 0)),
        ("open a file, old call", "open", (root, 0, 0)),
        ("open a file, new call", "openat2", (_AT_FDCWD, root, 0, 0)),
        ("stat a file", "newfstatat", (_AT_FDCWD, root, scratch, 0)),
        ("read a link", "readlinkat", (_AT_FDCWD, root, scratch, 1)),
        ("working directory", "getcwd", (scratch, 512)),
        ("device control", "ioctl", (0, 0, 0)),
        ("duplicate a descriptor", "dup", (0,)),
        ("write to a file", "write", (2, 0, 0)),
        ("read from a file", "read", (0, 0, 0)),
        # flags that clone refuses with EINVAL, so that no child appears even without a filter
        ("fork", "clone", (0xFFFFFFFF, 0, 0, 0, 0)),
        ("fork, new call", "clone3", (0, 0)),
        ("execute", "execve", (0, 0, 0)),
        ("execute by descriptor", "execveat", (-1, 0, 0, 0, 0)),
        ("trace", "ptrace", (1, 0, 0, 0)),  # peek into a process that never exists
        ("read another process", "process_vm_readv", (pid, 0, 0, 0, 0, 0)),
        ("signal the parent", "kill", (parent, 0)),
        ("signal by kill", "kill", (pid, 0)),
        ("signal a thread by tkill", "tkill", (pid, 0)),
        ("signal another process by tgkill", "tgkill", (parent, parent, 0)),
        ("process descriptor", "pidfd_open", (parent, 0)),
        ("io_uring", "io_uring_setup", (1, 0)),
        ("namespace", "unshare", (0,)),
        ("enter a namespace", "setns", (-1, 0)),
        ("mount", "mount", (0, 0, 0, 0, 0)),
        ("bpf", "bpf", (0, 0, 0)),
        ("userfaultfd", "userfaultfd", (-1,)),
        ("memory file", "memfd_create", (0, 0)),
        ("performance counters", "perf_event_open", (0, 0, 0, 0, 0)),
        ("prctl", "prctl", (3, 0, 0, 0, 0)),
        ("keyring", "keyctl", (0, 0, 0)),
        ("change user", "setresuid", (-1, -1, -1)),
        ("resource limits", "prlimit64", (0, 7, 0, scratch)),
        ("shared memory", "shmget", (0, _PAGE, 0)),
        ("personality", "personality", (0xFFFFFFFF,)),
        ("executable mapping", "mmap", (0, _PAGE, _READ_WRITE | _EXEC, _PRIVATE_ANONYMOUS, -1, 0)),
        ("make memory executable", "mprotect", (page, _PAGE, _READ_WRITE | _EXEC)),
        ("make memory executable by key", "pkey_mprotect", (page, _PAGE, _EXEC, -1)),
    )
    column = 0 if arch == "x86_64" else 1
    listed = []
    for label, name, args in tries:
        number = _NUMBERS[name][column]
        if number is not None:
            listed.append(Attempt(label, number, args))
    return tuple(listed)


def run(tries: Sequence[Attempt]) -> tuple[str, ...]:
    """Make the attempts and name those that were not refused."""
    holes = []
    for attempt in tries:
        result = syscall(attempt.number, *attempt.args)
        # 0 and above went through; -1 with any errno but EPERM reached the kernel's own code
        if result != -1 or errno_now() != errno.EPERM:
            holes.append(attempt.name)
    return tuple(holes)


def _writable_page(arch: str) -> int:
    """Map one page to aim mprotect at; the filter allows mappings that can't be executed."""
    number = _NUMBERS["mmap"][0 if arch == "x86_64" else 1]
    return syscall(number or 0, 0, _PAGE, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
