"""Probing memory and cores below a root of our own making."""

from __future__ import annotations

from pathlib import Path

import pytest

from fazt.hardware import FALLBACK_RAM, Machine, probe

MIB = 1024 * 1024
MEMINFO = "MemTotal:        8192 kB\nMemFree:          100 kB\nMemAvailable:    5000 kB\nHugePages_Total:       0\n"


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_nothing_readable_gives_the_fallback(tmp_path: Path) -> None:
    assert probe(tmp_path, cores=3) == Machine(FALLBACK_RAM, FALLBACK_RAM, 3)


def test_F58_without_a_group_the_kernels_own_numbers_count(tmp_path: Path) -> None:
    lay(tmp_path, {"proc/meminfo": MEMINFO})
    assert probe(tmp_path, cores=4) == Machine(8192 * 1024, 5000 * 1024, 4)


def test_F58_version_2_limit_and_headroom_count_when_tighter(tmp_path: Path) -> None:
    meminfo = "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"
    group = "sys/fs/cgroup/system.slice/fazt.service"
    lay(
        tmp_path,
        {
            "proc/meminfo": meminfo,
            "proc/self/cgroup": "0::/system.slice/fazt.service\n",
            f"{group}/memory.max": f"{512 * MIB}\n",
            f"{group}/memory.current": f"{200 * MIB}\n",
            f"{group}/memory.stat": f"anon 1\ninactive_file {50 * MIB}\nactive_file 3\n",
        },
    )
    # 512 granted, 200 used, of which 50 are cache that the kernel gives back first
    assert probe(tmp_path, cores=2) == Machine(512 * MIB, 362 * MIB, 2)


def test_the_tightest_ancestor_binds(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\n",
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": f"{300 * MIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{290 * MIB}\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        },
    )
    assert probe(tmp_path, cores=8) == Machine(300 * MIB, 10 * MIB, 2)


def test_a_limit_above_the_machines_memory_is_no_memory(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{10**15}\n",
            "sys/fs/cgroup/memory.current": "0\n",
        },
    )
    assert probe(tmp_path, cores=1) == Machine(8192 * 1024, 5000 * 1024, 1)


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "2000\n",
        },
    )
    assert probe(tmp_path, cores=1) == Machine(1000, 0, 1)


def test_version_1_is_read_where_version_2_says_nothing(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    lay(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\n",
            "proc/self/cgroup": "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{256 * MIB}\n",
            f"{group}/memory.usage_in_bytes": f"{100 * MIB}\n",
            f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert probe(tmp_path, cores=4) == Machine(256 * MIB, 176 * MIB, 1)


def test_version_1_without_a_limit_is_the_machine(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "12:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**50),
        },
    )
    assert probe(tmp_path, cores=1).total_ram == 8192 * 1024


@pytest.mark.parametrize("path", ["/../../../etc", "/not/visible/from/here"])
def test_a_group_path_that_leads_nowhere_is_read_at_the_mount(tmp_path: Path, path: str) -> None:
    lay(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "sys/fs/cgroup/memory.max": f"{64 * MIB}\n",
            "sys/fs/cgroup/memory.current": "0\n",
        },
    )
    assert probe(tmp_path, cores=1).total_ram == 64 * MIB


@pytest.mark.parametrize("text", ["", "garbage", "MemTotal:\nMemAvailable: x kB\n", "MemTotal: 0 kB\n", "\xff\xfe"])
def test_unreadable_numbers_never_keep_fazt_from_starting(tmp_path: Path, text: str) -> None:
    lay(
        tmp_path,
        {
            "proc/meminfo": text,
            "proc/self/cgroup": text,
            "sys/fs/cgroup/memory.max": text,
            "sys/fs/cgroup/cpu.max": text,
        },
    )
    assert probe(tmp_path, cores=1) == Machine(FALLBACK_RAM, FALLBACK_RAM, 1)


def test_F58_this_machine_has_less_free_than_it_has() -> None:
    machine = probe()
    assert 0 < machine.available_ram < machine.total_ram
    assert machine.cpu_cores >= 1
