"""scripts/build-guest: when it builds, and what it says where it can't. The build itself is what made the guest."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "build-guest"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with a guest directory and a cache of its own."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("build_guest", str(SCRIPT))
    spec = importlib.util.spec_from_loader("build_guest", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    shim = tmp_path / "shim.c"
    shim.write_text("int main;")
    for name in module.PARTS:
        (tmp_path / name).write_text("")
    monkeypatch.setattr(module, "GUEST", tmp_path / "guest")
    monkeypatch.setattr(module, "SHIM", shim)
    monkeypatch.setattr(sys, "argv", ["build-guest", "--quiet"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def fake_build(made: list[Path]) -> object:
    def build(target: Path, wanted: dict[str, str], toolchain: object) -> None:
        made.append(target)
        target.mkdir(parents=True, exist_ok=True)
        wasm = b"wasm%d" % len(made)
        (target / "guest.wasm").write_bytes(wasm)
        digest = __import__("hashlib").sha256(wasm).hexdigest()
        (target / "guest.json").write_text(json.dumps({"inputs": wanted, "sha256": digest}))

    return build


def test_it_builds_once_for_the_same_inputs(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(script, "build", fake_build(made))
    monkeypatch.setattr(script, "find_toolchain", lambda: (["clang"], "rt.a"))
    script.main()
    script.main()
    assert len(made) == 1
    (script.GUEST / "guest.wasm").write_bytes(b"damaged")
    script.main()  # from the cache
    assert len(made) == 1
    assert (script.GUEST / "guest.wasm").read_bytes() == b"wasm1"
    for file in (script.SHIM, script.SHIM.with_name(script.PARTS[0])):
        file.write_text("int changed;")
        script.main()
    assert len(made) == len(set(made)) == 3


def test_without_a_compiler_it_says_so_with_a_status_of_its_own(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "find_clang", lambda: None)
    monkeypatch.setattr(sys, "argv", ["build-guest", "--no-install"])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == 3
    assert "jsbox" in capsys.readouterr().err


def test_nothing_is_installed_where_it_is_not_allowed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", "a password is required")

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert script.install() is False
    assert calls == [["sudo", "-n", "true"]]


def test_the_place_to_patch_must_be_there_once(script: ModuleType, tmp_path: Path) -> None:
    for text, fine in ((script.PATCH[0], True), ("", False), (script.PATCH[0] * 2, False)):
        (tmp_path / "quickjs.c").write_text(text)
        if fine:
            script.patch(tmp_path)
            assert script.PATCH[1] in (tmp_path / "quickjs.c").read_text()
        else:
            with pytest.raises(SystemExit):
                script.patch(tmp_path)


def test_no_index_is_named() -> None:
    text = SCRIPT.read_text()
    for word in ("http", "index-url", "pypi.org", "files.pythonhosted"):
        assert word not in text
