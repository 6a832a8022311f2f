"""Measure the machine: memory and cores that this process may really use.

Reads /proc and /sys below a root that tests replace. Whatever cannot be read is skipped: a missing file never keeps
fazt from starting.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FALLBACK_RAM = 512 * 1024 * 1024
"""Assumed where nothing can be measured: small enough to be true nearly everywhere."""

_V1_UNLIMITED = 1 << 50  # version 1 writes "no limit" as a number near 2**63, rounded to a page


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes and cores, as granted to this process."""

    total_ram: int
    available_ram: int
    cpu_cores: int


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group's memory limit and what is left of it, in bytes."""

    limit: int
    headroom: int


def probe(root: Path = Path("/"), *, cores: int | None = None) -> Machine:
    """Return what this process may use now.

    The total is the tightest memory limit among the process's control groups (version 2, else version 1), else the
    machine's memory, else `FALLBACK_RAM`. Available is what the kernel calls MemAvailable, or what is left below the
    tightest group, whichever is less.

    Args:
        root: directory that holds `proc` and `sys`.
        cores: cores the scheduler offers; measured when None.
    """
    meminfo = _meminfo(root)
    installed, free = meminfo.get("MemTotal"), meminfo.get("MemAvailable")
    groups = list(_groups_v2(root)) or list(_groups_v1(root))
    total = min((n for n in (installed, *(g.limit for g in groups)) if n), default=FALLBACK_RAM)
    left = [n for n in (free, *(g.headroom for g in groups)) if n is not None]
    available = min(total, *left) if left else total
    return Machine(total, max(0, available), _cores(root, cores))


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii", "replace")
    except OSError:  # absent, or hidden by a sandbox
        return None


def _number(path: Path) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _meminfo(root: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def _memberships(root: Path) -> Iterator[tuple[frozenset[str], str]]:
    """Yield controllers and path of each line of /proc/self/cgroup; version 2 names no controllers."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield frozenset(controllers.split(",")) - {""}, path


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield a group's directory and its ancestors: a limit on any of them binds.

    A path that leads outside the mount (as seen from a container without its own cgroup namespace) counts as the
    mount itself.
    """
    pure = PurePosixPath(path.lstrip("/"))
    if ".." in pure.parts or not (mount / pure).is_dir():
        pure = PurePosixPath()
    yield mount / pure
    for parent in pure.parents:
        yield mount / parent


def _groups_v2(root: Path) -> Iterator[_Group]:
    mount = root / "sys/fs/cgroup"
    path = next((path for controllers, path in _memberships(root) if not controllers), "/")
    for directory in _upwards(mount, path):
        limit = _number(directory / "memory.max")  # "max" when there is none
        if limit is None:
            continue
        used = _number(directory / "memory.current") or 0
        yield _Group(limit, limit - max(0, used - _stat(directory, "inactive_file")))


def _groups_v1(root: Path) -> Iterator[_Group]:
    mount = root / "sys/fs/cgroup/memory"
    path = next((path for controllers, path in _memberships(root) if "memory" in controllers), "/")
    for directory in _upwards(mount, path):
        limit = _number(directory / "memory.limit_in_bytes")
        if limit is None or limit >= _V1_UNLIMITED:
            continue
        used = _number(directory / "memory.usage_in_bytes") or 0
        yield _Group(limit, limit - max(0, used - _stat(directory, "total_inactive_file")))


def _stat(directory: Path, name: str) -> int:
    """Return one counter of memory.stat; page cache that the kernel drops first is not really used."""
    for line in (_text(directory / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _cores(root: Path, offered: int | None) -> int:
    if offered is None:
        offered = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([offered, *_quotas(root)]))


def _quotas(root: Path) -> Iterator[int]:
    """Yield CPU quotas in whole cores, rounded up: half a core still runs one thread."""
    mount = root / "sys/fs/cgroup"
    unified, cpu = "/", "/"
    for controllers, path in _memberships(root):
        if not controllers:
            unified = path
        elif "cpu" in controllers:
            cpu = path
    for directory in _upwards(mount, unified):
        words = (_text(directory / "cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            yield -(-int(words[0]) // int(words[1]))
    for directory in _upwards(mount / "cpu", cpu):
        quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
        if quota and period:  # -1, no quota, is not a number here
            yield -(-quota // period)


def interface_addresses() -> frozenset[str]:
    """Return every IPv4 and IPv6 address of this machine's interfaces, as getifaddrs(3) lists them.

    Empty where the system has no getifaddrs; the loopback range needs no listing to be judged.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_IfAddrs)()
    try:
        if libc.getifaddrs(ctypes.byref(first)) != 0:
            return frozenset()
    except AttributeError:
        return frozenset()
    try:
        found: set[str] = set()
        entry = first
        while entry:
            address = _address_of(entry.contents.addr)
            if address is not None:
                found.add(address)
            entry = entry.contents.next
        return frozenset(found)
    finally:
        libc.freeifaddrs(first)


class _IfAddrs(ctypes.Structure):
    """struct ifaddrs; only the first fields are read."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("addr", ctypes.c_void_p),
]


def _address_of(sockaddr: int | None) -> str | None:
    """Read a struct sockaddr: the family, then the address at offset 4 (IPv4) or 8 (IPv6)."""
    if not sockaddr:
        return None
    family = int.from_bytes(ctypes.string_at(sockaddr, 2), sys.byteorder)
    if sys.platform == "darwin":  # a length byte comes first there
        family = ctypes.string_at(sockaddr, 2)[1]
    match family:
        case socket.AF_INET:
            return socket.inet_ntop(socket.AF_INET, ctypes.string_at(sockaddr + 4, 4))
        case socket.AF_INET6:
            return socket.inet_ntop(socket.AF_INET6, ctypes.string_at(sockaddr + 8, 16))
        case _:
            return None
