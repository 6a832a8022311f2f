"""Renaming a file to a name that nobody has: what appears meanwhile is never replaced."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import lru_cache
from typing import Any

_RENAME_NOREPLACE = 1
_NOT_HERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


def rename_new(old: str, new: str, directory: int) -> None:
    """Rename within a directory unless the new name exists.

    Args:
        old, new: names in the directory.
        directory: its descriptor.

    Raises:
        FileExistsError: it exists, also when it appeared at the last moment.
        OSError: the system refused, or this file system can do it in no way that is safe.
    """
    renameat2 = _renameat2()
    if renameat2 is not None:
        ctypes.set_errno(0)
        if renameat2(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_HERE:
            raise OSError(number, os.strerror(number), new)
    os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(old, dir_fd=directory)


@lru_cache(maxsize=1)
def _renameat2() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        found.restype = ctypes.c_int
    return found
