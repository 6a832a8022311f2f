"""The filter program, run by an interpreter of classic BPF: what it lets through, on both tables."""

import re
import struct
from pathlib import Path

import pytest

from fazt.functions import selfcheck
from fazt.functions.seccomp import AARCH64, X86_64, Arch, assemble, worker_rules

PID, SOCK = 4_242, 3
ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000
BOTH = pytest.mark.parametrize("arch", [X86_64, AARCH64], ids=lambda arch: arch.name)


def run(program: bytes, *, audit: int, number: int, args: tuple[int, ...] = ()) -> int:
    """Run a filter as the kernel does; return its verdict."""
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(arg & (1 << 64) - 1 for arg in padded))
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator = at = 0
    while True:
        op, yes, no, value = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif op == 0x15:
            at += yes if accumulator == value else no
        elif op == 0x45:
            at += yes if accumulator & value else no
        elif op == 0x06:
            return value
        else:
            raise AssertionError(f"an instruction that the program should not hold: {op:#x}")


def verdict(arch: Arch, name: str, *args: int) -> int:
    program = assemble(arch, worker_rules(pid=PID, sock=SOCK))
    return run(program, audit=arch.audit, number=arch.numbers[name], args=args)


@BOTH
def test_a_call_that_is_not_named_is_refused(arch: Arch) -> None:
    program = assemble(arch, worker_rules(pid=PID, sock=SOCK))
    allowed = {arch.numbers[name] for name in worker_rules(pid=PID, sock=SOCK)}
    for number in range(600):
        answer = run(program, audit=arch.audit, number=number)
        assert number in allowed or answer == EPERM, number


@BOTH
def test_another_instruction_set_kills(arch: Arch) -> None:
    program = assemble(arch, worker_rules(pid=PID, sock=SOCK))
    for audit in (0, 0x40000003, X86_64.audit ^ AARCH64.audit):
        assert run(program, audit=audit, number=arch.numbers["futex"]) == KILL


def test_the_x32_numbers_of_x86_64_are_refused() -> None:
    program = assemble(X86_64, worker_rules(pid=PID, sock=SOCK))
    for number in X86_64.numbers.values():
        assert run(program, audit=X86_64.audit, number=number | 0x40000000) == EPERM


@BOTH
def test_only_the_own_process_can_be_signalled(arch: Arch) -> None:
    assert verdict(arch, "tgkill", PID, PID + 1, 6) == ALLOW
    for other in (0, 1, PID + 1, -1, PID | 1 << 31):
        assert verdict(arch, "tgkill", other, PID, 6) == EPERM


@BOTH
def test_memory_never_becomes_executable(arch: Arch) -> None:
    for name in ("mmap", "mprotect"):
        for protection in range(8):
            assert verdict(arch, name, 0, 4096, protection) == (EPERM if protection & 4 else ALLOW)
        assert verdict(arch, name, 0, 4096, 0x01000007) == EPERM


@BOTH
def test_talk_is_only_with_the_host_and_names_no_address(arch: Arch) -> None:
    assert verdict(arch, "sendto", SOCK, 1, 1, 0, 0, 0) == ALLOW
    assert verdict(arch, "sendto", SOCK + 1, 1, 1, 0, 0, 0) == EPERM
    assert verdict(arch, "sendto", SOCK, 1, 1, 0, 1, 16) == EPERM
    assert verdict(arch, "sendto", SOCK, 1, 1, 0, 1 << 32, 16) == EPERM
    for name in ("recvfrom", "recvmsg"):
        assert verdict(arch, name, SOCK) == ALLOW
        assert verdict(arch, name, SOCK + 1) == EPERM


@BOTH
def test_talk_has_no_flags(arch: Arch) -> None:
    for flag in (1, 2, 0x40, 0x4000, 0x4000000, 0x40000000):  # MSG_OOB, MSG_PEEK, … MSG_ZEROCOPY, MSG_CMSG_CLOEXEC
        assert verdict(arch, "sendto", SOCK, 1, 1, flag, 0, 0) == EPERM
        assert verdict(arch, "recvfrom", SOCK, 1, 1, flag, 0, 0) == EPERM
        assert verdict(arch, "recvmsg", SOCK, 1, flag) == EPERM


@BOTH
def test_every_mapping_counts_against_the_limit_of_memory(arch: Arch) -> None:
    for flags in (0x02, 0x12, 0x22, 0x20022, 0x4022):  # private: of a file, fixed, anonymous, a stack, not reserved
        assert verdict(arch, "mmap", 0, 4096, 3, flags, -1, 0) == ALLOW
    for flags in (0x01, 0x21, 0x03, 0x100, 0x122):  # shared, validated, growing downwards
        assert verdict(arch, "mmap", 0, 4096, 3, flags, -1, 0) == EPERM


@BOTH
def test_a_descriptor_can_be_copied_but_not_changed(arch: Arch) -> None:
    assert verdict(arch, "fcntl", 4, 1030, 0) == ALLOW
    for command in (0, 2, 4, 8, 1024, 1031, 1033):
        assert verdict(arch, "fcntl", 4, command) == EPERM


def test_both_tables_name_the_same_calls_and_one_is_unverified() -> None:
    assert set(X86_64.numbers) == set(AARCH64.numbers)
    assert X86_64.verified
    assert not AARCH64.verified


HEADERS = {
    X86_64.name: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    AARCH64.name: Path("/usr/include/asm-generic/unistd.h"),
}


@BOTH
def test_the_numbers_are_those_of_the_kernels_headers(arch: Arch) -> None:
    header = HEADERS[arch.name]
    if not header.exists():
        pytest.skip("linux-libc-dev is not installed")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    assert {name: int(found[name]) for name in arch.numbers} == dict(arch.numbers)
    column = 0 if arch is X86_64 else 1
    tried = {name: pair[column] for name, pair in selfcheck._NUMBERS.items() if pair[column] is not None}
    found.setdefault("newfstatat", found.get("fstatat", ""))
    assert {name: int(found[name]) for name in tried} == tried
