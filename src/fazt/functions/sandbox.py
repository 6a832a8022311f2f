"""The sandbox of a worker process: what it gives up before it sees a line of a stranger's code.

Two steps, because the engine's watchdog thread has to start between them. `confine` takes away what needs privilege or
names (limits, network, files, user id); `seal` puts the system-call filter on every thread and then tries to break
out. A worker in which one attempt succeeds is never used.

On Linux the filter is mandatory. Landlock and an empty network namespace are taken where the kernel grants them and
reported. Elsewhere nothing of this exists: such a host is for development, and its report says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fazt.functions import landlock, seccomp, selfcheck
from fazt.functions.libc import (
    PR_SET_DUMPABLE,
    PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    last_error,
    mprotect,
    prctl,
    syscall,
    unshare,
)

if sys.platform != "win32":
    import resource

Profile = Literal["strict", "development"]
"""`strict` for the WebAssembly guest; `development` for a native engine, whose own faults the guest's memory does not
contain: the filter is the same, and the report says so."""

DATA = 384 << 20
ADDRESS_SPACE = 16 << 30
NICE = 5

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_NOBODY = 65534
_READ_EXEC = 5


class SandboxError(Exception):
    """A worker that could not be confined, or broke out when it tried to; it must not be used."""


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    """What to confine a worker to.

    Args:
        profile: `strict`, or `development` for the native fallback engine.
        data: bytes of private writable memory it may have, the zygote's included.
        address_space: bytes of address space, the zygote's included (a reservation of wasmtime's counts here).
        uid: the user to become when started by root.
        open_files: one more than the highest descriptor it may have.
        nice: added to the priority value, so that the parent, which owns the network, goes first.
    """

    profile: Profile = "strict"
    data: int = DATA
    address_space: int = ADDRESS_SPACE
    uid: int = _NOBODY
    nice: int = NICE
    open_files: int = 16


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What holds in a worker: each field is a fact found at start-up, not an intention.

    `arch_verified` tells whether the system-call table was ever tried on real hardware; `holes` names the attempts
    to break out that succeeded; `uid_dropped` is true when the worker has no user in common with the host, or when
    the host isn't root in the first place.
    """

    platform: str = sys.platform
    arch: str = ""
    arch_verified: bool = False
    profile: Profile = "strict"
    seccomp: bool = False
    landlock_abi: int = 0
    netns: bool = False
    userns: bool = False
    uid_dropped: bool = False
    no_new_privs: bool = False
    capabilities_dropped: bool = False
    checks: int = 0
    holes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether a worker in this state may run a stranger's code at all."""
        return not self.holes and (self.seccomp or not self.platform.startswith("linux"))

    @property
    def full(self) -> bool:
        """Whether everything the design asks for holds (`--require-sandbox=full`)."""
        layers = (self.seccomp, self.landlock_abi, self.netns, self.uid_dropped, self.capabilities_dropped)
        return self.usable and self.profile == "strict" and self.arch_verified and all(layers)

    def missing(self) -> tuple[str, ...]:
        """Name what keeps the sandbox from being full, in words for an operator."""
        named = {
            "no seccomp filter": not self.seccomp,
            "no Landlock in this kernel": not self.landlock_abi,
            "no network namespace of its own": not self.netns,
            "it runs as root": not self.uid_dropped,
            "it has capabilities": not self.capabilities_dropped,
            "the native fallback engine is for development": self.profile != "strict",
            f"the system-call table of {self.arch or self.platform} is unverified": not self.arch_verified,
        }
        return tuple(text for text, absent in named.items() if absent) + tuple(f"hole: {hole}" for hole in self.holes)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts for the health report."""
        return {**asdict(self), "holes": list(self.holes), "full": self.full, "missing": list(self.missing())}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SandboxReport:
        """Read what `as_dict` made."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "holes": tuple(known.get("holes", ()))})


def confine(plan: SandboxPlan, *, parent: int) -> SandboxReport:
    """Give up limits, names, network and privilege (single-threaded: before the watchdog starts).

    Args:
        plan: what to confine to.
        parent: process id of the zygote, with which this process must die.

    Raises:
        SandboxError: something that must hold doesn't.
    """
    if not sys.platform.startswith("linux"):
        return SandboxReport(profile=plan.profile)
    prctl(PR_SET_NAME, ctypes.cast(ctypes.c_char_p(b"fazt-worker"), ctypes.c_void_p).value or 0)
    _prefer_as_oom_victim()
    _limit(plan)
    netns = unshare(_CLONE_NEWNET) == 0
    dropped = _become(plan.uid)
    userns = False
    if not netns:  # without CAP_SYS_ADMIN: a user namespace brings a network namespace with it
        netns = userns = unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0
    capabilities_dropped = _drop_capabilities()
    # a change of user clears both of these, so they come after it (prctl(2), credentials(7))
    if prctl(PR_SET_DUMPABLE, 0) != 0 or prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
        raise SandboxError(str(last_error("prctl")))
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SandboxError("the zygote is gone")
    try:
        abi = landlock.deny_all()
    except OSError as exc:
        raise SandboxError(str(exc)) from exc
    arch = seccomp.current_arch()
    return SandboxReport(
        arch=arch.name if arch else "",
        arch_verified=bool(arch and arch.verified),
        profile=plan.profile,
        landlock_abi=abi,
        netns=netns,
        userns=userns,
        uid_dropped=dropped,
        no_new_privs=True,
        capabilities_dropped=capabilities_dropped,
    )


def seal(report: SandboxReport, *, sock: int) -> SandboxReport:
    """Put the filter on every thread, then try to break out.

    Args:
        report: what `confine` returned.
        sock: descriptor of the socket to the host.

    Returns:
        The report, with the filter and the attempts that succeeded.

    Raises:
        SandboxError: no filter could be installed (Linux only).
    """
    if not sys.platform.startswith("linux"):
        return report
    arch = seccomp.current_arch()
    if arch is None:
        raise SandboxError("no system-call table for this machine; run functions on x86_64 or aarch64 Linux")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # the last thread has started
    pid, parent = os.getpid(), os.getppid()
    try:
        seccomp.install(arch, seccomp.assemble(arch, seccomp.worker_rules(pid=pid, sock=sock)))
    except OSError as exc:
        raise SandboxError(str(exc)) from exc
    attempts = selfcheck.attempts(arch.name, pid=pid, parent=parent)
    holes = selfcheck.run(attempts)
    return replace(report, seccomp=True, checks=len(attempts), holes=holes)


def memory_now() -> tuple[int, int]:
    """Return (address space, private writable memory) of this process in bytes; zeros where /proc doesn't tell."""
    sizes = {"VmSize:": 0, "VmData:": 0}
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, rest = line.partition("\t")
                if name in sizes:
                    sizes[name] = int(rest.split()[0]) << 10
    except (OSError, ValueError):
        pass
    return sizes["VmSize:"], sizes["VmData:"]


def freeze_code() -> None:
    """Take the right to write from memory of this process that may be executed, for itself and its children.

    There is such a page wherever ctypes made a callback (libffi's closures), as the engine's library does. A worker
    that kept it could write machine code there, though it may not make new executable memory. No callback can be made
    after this.

    Raises:
        SandboxError: the kernel refused.
    """
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as lines:
            places = [fields[0].partition("-") for fields in map(str.split, lines) if fields[1][1:3] == "wx"]
    except OSError:  # not Linux
        return
    for start, _, end in places:
        address = int(start, 16)
        if mprotect(address, int(end, 16) - address, _READ_EXEC) != 0:
            raise SandboxError(str(last_error("mprotect")))


def _limit(plan: SandboxPlan) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NOFILE: plan.open_files,
        resource.RLIMIT_AS: plan.address_space,
        resource.RLIMIT_DATA: plan.data,
    }
    for which, value in limits.items():
        _, hard = resource.getrlimit(which)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    if plan.nice:
        os.nice(plan.nice)


def _become(uid: int) -> bool:
    """Change from root to a user that owns nothing; whether this process is something other than root afterwards."""
    if os.geteuid() != 0:
        return True
    for candidate in (uid, _NOBODY):
        try:
            os.setgroups([])
            os.setresgid(candidate, candidate, candidate)
            os.setresuid(candidate, candidate, candidate)
        except OSError:  # no CAP_SETUID, or an id that the container's map leaves out
            continue
        return True
    return False


def _drop_capabilities() -> bool:
    number = _CAPSET.get(os.uname().machine)
    if number is None:
        return False
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    return syscall(number, ctypes.addressof(header), ctypes.addressof(nothing)) == 0


def _prefer_as_oom_victim() -> None:
    """Have the kernel take a worker, not the host, when memory runs out."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:  # /proc is read-only in some containers; then the kernel decides by size
        return
    try:
        os.write(fd, b"1000")
    except OSError:
        pass
    finally:
        os.close(fd)


def verify_outside(pid: int, report: SandboxReport) -> tuple[str, ...]:
    """Look at a worker from outside and name what its report claims and the kernel doesn't confirm, thread by thread.

    Where /proc can't be read (hidepid, other systems) nothing is added: the worker's own attempts stand.
    """
    if not report.seccomp:
        return ()
    wanted = {"Seccomp": "2", "NoNewPrivs": "1"}
    if report.capabilities_dropped:
        wanted["CapEff"] = "0" * 16
    wrong: set[str] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as lines:
                facts = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
            wrong |= {f"thread without {name}" for name, value in wanted.items() if facts.get(name, value) != value}
    except OSError:
        return ()
    return tuple(sorted(wrong))
