"""The guest as a module: where it is, and its compiled form, which is kept from one start to the next.

Run as a program (`python -m fazt.functions.wasm_module WASM OUT`) it compiles: that starts threads, which a process
that is going to fork must not have.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import wasmtime

from fazt.functions import guest
from fazt.functions.guestapi import EngineUnavailableError

NATIVE_STACK = 2 << 20
"""Bytes of native stack that WebAssembly code may use; the thread that invokes needs more than that."""
_COMPILE_SECONDS = 300
_KEPT = 4
"""Compiled modules that stay in the cache: other versions and checkouts may be in use."""


def digest(*parts: bytes) -> str:
    """Return a hex SHA-256 of parts, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def new_engine() -> wasmtime.Engine:
    """Make an engine; compiling and loading need the same configuration."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.max_wasm_stack = NATIVE_STACK
    config.memory_may_move = False  # images are mapped at its address
    config.memory_init_cow = True
    config.wasm_threads = False
    config.shared_memory = False
    config.gc_support = False
    return wasmtime.Engine(config)


def load(engine: wasmtime.Engine, *, cache_dir: Path | None = None) -> tuple[wasmtime.Module, str]:
    """Load the compiled guest and return it with the digest of its WebAssembly; compile it when there is no usable one.

    Raises:
        EngineUnavailableError: no guest was built, or compiling failed.
    """
    try:
        wasm = guest.WASM.read_bytes()
    except OSError as exc:
        raise EngineUnavailableError("the JavaScript guest is not built: run scripts/build-guest") from exc
    wasm_digest = digest(wasm)
    directory = cache_dir or _cache_dir()
    # The name keeps versions apart; wasmtime itself refuses what was compiled for another CPU or configuration.
    name = f"{wasm_digest[:16]}-{metadata.version('wasmtime')}-{platform.machine()}.cwasm"
    compiled = directory / name
    module = _deserialize(engine, compiled)
    if module is None:
        _compile_apart(guest.WASM, compiled)
        module = _deserialize(engine, compiled)
    if module is None:
        raise EngineUnavailableError(f"the compiled guest in {compiled} can't be loaded")
    return module, wasm_digest


def _cache_dir() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "fazt" / "guest"


def _deserialize(engine: wasmtime.Engine, path: Path) -> wasmtime.Module | None:
    """Load a compiled module if it is there, fits, and nobody else can have written it: it is machine code.

    What is loaded is what was looked at: no link is followed, and names are not read a second time.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                if not (_is_ours(directory) and _is_ours(file) and stat.S_ISREG(os.fstat(file).st_mode)):
                    return None
                same = f"/proc/self/fd/{file}"
                return wasmtime.Module.deserialize_file(engine, same if os.path.exists(same) else str(path))
            finally:
                os.close(file)
        finally:
            os.close(directory)
    except (OSError, wasmtime.WasmtimeError):
        return None


def _is_ours(handle: int) -> bool:
    found = os.fstat(handle)
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022


def _compile_apart(wasm: Path, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        out.parent.chmod(0o700)
    except OSError as exc:
        raise EngineUnavailableError(f"the directory {out.parent} can't be used: {exc.strerror}") from exc
    command = [sys.executable, "-m", "fazt.functions.wasm_module", str(wasm), str(out)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_COMPILE_SECONDS, check=False, text=True)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise EngineUnavailableError(f"compiling the JavaScript guest failed: {exc}") from exc
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise EngineUnavailableError(f"compiling the JavaScript guest failed: {lines[-1]}")
    compiled = sorted(out.parent.glob("*.cwasm"), key=lambda path: path.stat().st_mtime)
    for old in compiled[:-_KEPT]:
        old.unlink(missing_ok=True)


def compile_to(wasm: Path, out: Path) -> None:
    """Compile a module to a file, which appears whole or not at all."""
    module = wasmtime.Module(new_engine(), wasm.read_bytes())
    staged = out.with_name(f".{out.name}.{os.getpid()}")
    staged.touch(mode=0o600)
    staged.write_bytes(module.serialize())
    staged.replace(out)


if __name__ == "__main__":
    compile_to(Path(sys.argv[1]), Path(sys.argv[2]))
