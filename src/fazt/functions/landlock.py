"""Landlock: give up every file, TCP port, abstract socket and foreign signal the kernel lets us give up.

Sources: landlock(7), linux/landlock.h. A ruleset that handles a right and holds no rule denies that right everywhere;
descriptors that are open stay usable.
"""

from __future__ import annotations

import ctypes
import os

from fazt.functions.libc import PR_SET_NO_NEW_PRIVS, last_error, prctl, syscall

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same numbers on every architecture (asm-generic)
_CREATE_VERSION = 1
_FS_FIRST = (1 << 13) - 1  # ABI 1: execute … make_sym
_FS_LATER = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # refer, truncate, ioctl_dev
_NET = 3  # ABI 4: bind_tcp, connect_tcp
_SCOPES = 3  # ABI 6: abstract unix sockets, signals


class _Attributes(ctypes.Structure):
    _fields_ = (  # struct landlock_ruleset_attr
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def supported_abi() -> int:
    """Return the kernel's Landlock ABI, 0 when there is none."""
    return max(0, syscall(_CREATE_RULESET, None, 0, _CREATE_VERSION))


def handled(abi: int) -> tuple[int, int, int]:
    """Return the masks (files, network, scopes) that a kernel of this ABI can deny."""
    files = _FS_FIRST
    for since, bit in _FS_LATER:
        files |= bit if abi >= since else 0
    return files, _NET if abi >= 4 else 0, _SCOPES if abi >= 6 else 0


def deny_all() -> int:
    """Deny the calling thread, and threads it starts later, everything Landlock knows. Return the ABI used, or 0.

    Raises:
        OSError: the kernel has Landlock and yet refused.
    """
    abi = supported_abi()
    if not abi:
        return 0
    attributes = _Attributes(*handled(abi))
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscall(_CREATE_RULESET, ctypes.addressof(attributes), size, 0)
    if ruleset < 0:
        raise last_error("landlock_create_ruleset")
    try:
        if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
            raise last_error("no_new_privs")
        if syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise last_error("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return abi
