"""The C library, for the few calls Python doesn't wrap."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
"""The C library of a Linux host; None elsewhere."""

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38

if libc is not None:
    libc.syscall.restype = ctypes.c_long
    libc.prctl.restype = ctypes.c_int
    libc.unshare.restype = ctypes.c_int
    libc.unshare.argtypes = [ctypes.c_int]
    libc.mprotect.restype = ctypes.c_int
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def syscall(number: int, *args: int | None) -> int:
    """Make a system call by number; -1 with errno set on failure. Every argument is passed as a full register."""
    if libc is None:
        return _refuse()
    ctypes.set_errno(0)
    result: int = libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(arg) for arg in args))
    return result


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    """Call prctl(2); -1 with errno set on failure."""
    if libc is None:
        return _refuse()
    rest = (ctypes.c_ulong(arg2), ctypes.c_ulong(arg3), ctypes.c_ulong(0), ctypes.c_ulong(0))
    result: int = libc.prctl(ctypes.c_int(option), *rest)
    return result


def unshare(flags: int) -> int:
    """Call unshare(2); -1 with errno set on failure."""
    if libc is None:
        return _refuse()
    result: int = libc.unshare(flags)
    return result


def mprotect(address: int, size: int, protection: int) -> int:
    """Call mprotect(2); -1 with errno set on failure."""
    if libc is None:
        return _refuse()
    result: int = libc.mprotect(address, size, protection)
    return result


def errno_now() -> int:
    """Return the errno of the last call made here by this thread."""
    return ctypes.get_errno()


def last_error(what: str) -> OSError:
    """Make an OSError of the last errno, naming what was tried."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _refuse() -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1
