"""Images, isolation and the life of an engine."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from fazt.functions import guest as guest_files
from fazt.functions import wasm_frames, wasm_module
from fazt.functions.guestapi import (
    AppBundle,
    EngineUnavailableError,
    FrameError,
    ImageError,
    ScriptError,
    Usage,
    build_request,
    open_engine,
    pack,
    parse_result,
    unpack,
    write_image,
)
from fazt.functions.outcome import NetErrors, finished
from fazt.functions.wasm_image import WasmImage, make_image


def test_F31_nothing_of_one_invocation_is_seen_by_the_next(guest: Any) -> None:
    spoil = """
    globalThis.canary = 'secret'; Object.prototype.canary = 'secret'; Array.prototype.push = () => 'secret';
    fazt.canary = 'secret'; console.log = () => 'secret'; JSON.parse = () => 'secret'; Math.canary = 'secret';
    require('./m').canary = 'secret'; const x = 1; let y = 2; respond('spoiled')
    """
    look = """
    const x = 1; let y = 2;
    respond([typeof canary, typeof {}.canary, [].push(1), typeof fazt.canary, typeof Math.canary, JSON.parse('1'),
             Object.keys(require('./m')), typeof console.log('line')])
    """
    files = {"m.js": "exports.own = 1"}
    first, second = guest.app(spoil, files), guest.app(look, files)
    for _ in range(2):
        assert guest.text(first) == "spoiled"
        assert guest.text(first) == "spoiled"  # the same names are declared again without complaint
        assert guest.text(second) == '["undefined","undefined",1,"undefined","undefined",1,["own"],"undefined"]'
        assert guest.logs == [("info", "line")]


def test_F31_an_invocation_that_was_killed_leaves_nothing_behind(wasm: Any) -> None:
    secret = "canary-" + "5e" * 20
    image = wasm.app(
        "globalThis.kept = request.body + request.body; if (request.query.loop) for (;;) {} ; respond('x')"
    )
    request = {"body_kind": "text", "body": secret.encode(), "method": "POST", "query": [("loop", "1")]}
    assert wasm.run(image, request=request, cpu_ms=30).error.kind == "cpu"
    assert wasm.text(image, request={"body_kind": "text", "body": b"other", "method": "POST"}) == "x"
    assert secret.encode() not in os.pread(image.fd, image.length, 65_536)


def test_the_image_is_mapped_privately_and_given_back(wasm: Any) -> None:
    image = wasm.app("const kept = new Uint8Array(1 << 20).fill(7); respond('x')")
    content = os.pread(image.fd, image.length, 65_536)

    def mapped() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    for _ in range(3):
        wasm.text(image)
    lines, descriptors = mapped(), len(os.listdir("/proc/self/fd"))
    loop = wasm.app("for (;;) {}")
    resident = _resident()
    for _ in range(150):
        wasm.text(image)
    for _ in range(5):
        wasm.run(loop, cpu_ms=3)
    assert mapped() <= lines + 3
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # the second image
    assert _resident() - resident < 4 << 20  # 150 instances of more than 1 MiB each
    assert os.pread(image.fd, image.length, 65_536) == content


def test_pages_that_are_used_again_hold_the_image_and_nothing_else(wasm: Any) -> None:
    image = wasm.app("globalThis.kept = request.body; respond('x')")
    size = image.length
    place = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    content = os.pread(image.fd, size, 65_536)
    for _ in range(3):
        image.map_at(address)
        assert ctypes.string_at(address, size) == content
        ctypes.memset(address, 0x5E, size)  # as a handler may have left it
        image.unmap_at(address)
        start, end = image.hot
        assert ctypes.string_at(address + start, end - start) == bytes(end - start)  # gone, and no hole
    assert wasm.text(image) == "x"


def test_an_image_is_served_where_pages_cannot_be_moved(wasm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ctypes.c_void_p(-1).value
    monkeypatch.setattr(wasm_frames, "_mremap", lambda *_: failed)
    image = wasm.app("globalThis.kept = (globalThis.kept ?? 0) + 1; respond(String(kept))")
    for _ in range(3):
        assert wasm.text(image) == "1"


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_image_is_sparse_private_and_opens_by_path_or_descriptor(wasm: Any, tmp_path: Path) -> None:
    data = wasm.engine.bake(AppBundle("app_9", "n", {"api/main.js": b"'hi'"}, version="v3"), memory=8 << 20)
    path = tmp_path / "app.img"
    write_image(path, data)
    assert path.read_bytes() == data
    found = path.stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 < len(data) // 2
    with path.open("rb") as file:
        image = wasm.engine.open_image(file.fileno())
    assert (image.app_id, image.version) == ("app_9", "v3")
    assert wasm.text(image) == "hi"  # the caller's descriptor is closed by now
    image.close()
    image.close()


def test_images_of_another_make_are_refused(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    for data in (b"", b"x" * 70_000, b"FAZTIMG1\xff\xff\xff\xff", b"FAZTIMG1\x02\0\0\0{}", b"FAZTJSB1[]", b"FAZTJSB1{"):
        path.write_bytes(data)
        with pytest.raises(ImageError):
            engine.open_image(path)


@pytest.mark.parametrize("change", [-1, -65_536, -1_000_000, 1, 65_536])
def test_an_image_that_is_not_whole_is_refused(wasm: Any, tmp_path: Path, change: int) -> None:
    # it would be mapped all the same, and every request of the app would fail until the next deploy
    path = tmp_path / "x.img"
    write_image(path, wasm.engine.bake(AppBundle("a", "a", {"api/main.js": b"respond('x')"}), memory=1 << 20))
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(ImageError, match="cut off"):
        wasm.engine.open_image(path)


def test_an_image_of_another_prelude_is_refused(wasm: Any, tmp_path: Path) -> None:
    header = {"fingerprint": "other", "app": "a", "version": "1", "mailbox": 0, "hot": [0, 0]}
    path = tmp_path / "x.img"
    write_image(path, make_image(b"\1" * 65_536, floor=65_536, header=header))
    with pytest.raises(ImageError, match="another version"):
        wasm.engine.open_image(path)
    assert WasmImage(path, fingerprint="other").pages == 1
    path.write_bytes(path.read_bytes()[:65_536])
    with pytest.raises(ImageError, match="cut off"):
        WasmImage(path, fingerprint="other")


def test_an_engine_goes_on_in_a_forked_child(tmp_path: Path) -> None:
    try:
        engine = open_engine("wasm")  # one that has no watchdog running yet
    except EngineUnavailableError as exc:
        pytest.skip(str(exc))
    path = tmp_path / "x.img"
    # baking needs the watchdog: elsewhere, as a deploy does
    other = open_engine("wasm")
    write_image(
        path,
        other.bake(
            AppBundle("a", "n", {"api/main.js": b"if (request.path === '/l') for (;;) {}; 'ok'"}), memory=8 << 20
        ),
    )
    other.close()
    image = engine.open_image(path)
    limits: dict[str, Any] = {"cpu_ms": 40, "wall_ms": 5_000, "memory": 8 << 20, "max_output": 99, "max_log_lines": 1}

    def ask(where: str) -> str:
        request = build_request(app_id="a", app_name="n", method="GET", path=where)
        raw = engine.invoke(image, request, host=lambda f: f, post=lambda f: None, seed=b"", **limits)
        result = parse_result(raw)
        return result.error.kind if result.error else result.body.decode()

    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other tests' watchdogs are threads; the child does not touch them
        child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            engine.start_watchdog()
            os.write(write, ",".join([ask("/"), ask("/l"), ask("/")]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"ok,cpu,ok"
    os.close(read)
    assert ask("/") == "ok"
    engine.close()


def test_an_engine_runs_one_invocation_at_a_time(wasm: Any, replies: Any) -> None:
    image = wasm.app("respond('x')")

    def nested(frame: bytes) -> bytes:
        with pytest.raises(RuntimeError, match="one invocation"):
            wasm.engine.bake(AppBundle("a", "n", {"api/main.js": b"1"}), memory=1 << 20)
        return replies.ok()

    assert wasm.text("respond(String(fazt.net.fetch('https://a.example/').status))", host=nested) == "200"
    assert wasm.text(image) == "x"


def test_the_outcome_says_what_it_cost(wasm: Any) -> None:
    result = wasm.run("let n = 0; for (let i = 0; i < 1e5; i++) n += i; respond(String(n))")
    assert 0 < result.usage.cpu_ms < 5_000
    assert result.usage.wall_ms > 0
    assert 1 << 20 < result.usage.memory < 64 << 20


def test_the_compiled_guest_is_not_taken_from_a_place_others_can_write(wasm: Any, tmp_path: Path) -> None:
    engine = wasm_module.new_engine()
    path = tmp_path / "x.cwasm"
    assert wasm_module._deserialize(engine, path) is None
    path.write_bytes(b"not machine code")
    path.chmod(0o600)
    tmp_path.chmod(0o700)
    assert wasm_module._deserialize(engine, path) is None
    real = next(wasm_module._cache_dir().glob("*.cwasm"))
    path.write_bytes(real.read_bytes())
    assert wasm_module._deserialize(engine, path) is not None
    path.chmod(0o622)
    assert wasm_module._deserialize(engine, path) is None
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    assert wasm_module._deserialize(engine, path) is None
    tmp_path.chmod(0o700)


def test_the_compiled_guest_is_not_reached_through_links(wasm: Any, tmp_path: Path) -> None:
    # whoever may turn a link could turn it between the look at the file and its loading
    engine = wasm_module.new_engine()
    real = next(wasm_module._cache_dir().glob("*.cwasm"))
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    (own / "x.cwasm").write_bytes(real.read_bytes())
    (own / "x.cwasm").chmod(0o600)
    assert wasm_module._deserialize(engine, own / "x.cwasm") is not None
    (own / "link.cwasm").symlink_to(own / "x.cwasm")
    assert wasm_module._deserialize(engine, own / "link.cwasm") is None
    (tmp_path / "elsewhere").symlink_to(own)
    assert wasm_module._deserialize(engine, tmp_path / "elsewhere" / "x.cwasm") is None
    os.mkfifo(own / "pipe.cwasm", 0o600)
    assert wasm_module._deserialize(engine, own / "pipe.cwasm") is None


def test_the_fallback_is_not_taken_for_a_guest_that_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"\0asm\1\0\0\0nonsense")
    monkeypatch.setattr(guest_files, "WASM", tmp_path / "bad.wasm")
    with pytest.raises(EngineUnavailableError, match="failed"):
        open_engine("auto", cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineUnavailableError, match="can't be used"):
        open_engine("auto", cache_dir=tmp_path / "file" / "cache")


def test_without_a_guest_the_fallback_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(guest_files, "WASM", tmp_path / "none.wasm")
    assert open_engine("auto").kind == "jsbox"
    with pytest.raises(EngineUnavailableError, match="build-guest"):
        open_engine("wasm")


def test_a_guest_that_does_not_compile_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"\0asm\1\0\0\0nonsense")
    monkeypatch.setattr(guest_files, "WASM", tmp_path / "bad.wasm")
    with pytest.raises(EngineUnavailableError, match="failed"):
        open_engine("wasm", cache_dir=tmp_path / "cache")
    assert sys.executable


# -- frames that a broken guest would make -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        None,
        b"",
        b"\x05\0\0\0{",
        b"\x02\0\0\0[]",
        pack({"status": 200}),
        pack({"status": 99, "headers": [], "bodyKind": "none"}),
        pack({"status": True, "headers": [], "bodyKind": "none"}),
        pack({"status": "200", "headers": [], "bodyKind": "none"}),
        pack({"status": 200, "headers": {}, "bodyKind": "none"}),
        pack({"status": 200, "headers": [["a"]], "bodyKind": "none"}),
        pack({"status": 200, "headers": [["a", 1]], "bodyKind": "none"}),
        pack({"status": 200, "headers": [], "bodyKind": "magic"}),
        pack({"status": 200, "headers": [], "bodyKind": []}),
        pack({"error": 5}),
        pack({"error": {"kind": "fine"}}),
        pack({"error": {"kind": {}}}),
        struct.pack("<I", 200_000) + b"[" * 200_000,
    ],
)
def test_a_broken_result_is_told_as_such(frame: bytes | None) -> None:
    result = parse_result(finished(frame, Usage(1, 2, 3), errors=NetErrors(), max_output=1 << 20, logs_dropped=4))
    assert result.error is not None
    assert result.error.kind == "killed"
    assert (result.status, result.logs_dropped, result.usage) == (500, 4, Usage(1, 2, 3))


def test_a_result_over_the_cap_is_not_passed_on() -> None:
    frame = pack({"status": 200, "headers": [["a", "x" * 50]], "bodyKind": "text"}, b"y" * 60)
    for cap, kind in ((200, None), (100, "output")):
        error = parse_result(finished(frame, Usage(), errors=NetErrors(), max_output=cap)).error
        assert (error.kind if error else None) == kind


def test_only_errors_of_the_host_count_as_network_errors() -> None:
    errors = NetErrors()
    said = {
        "code": "NET_RATE",
        "reason": "host_rate",
        "message": "m",
        "retryable": True,
        "retryAfter": 3,
        "callId": "c1",
    }
    errors.note(pack({"ok": {"callId": "c0"}}, b'{"error":1}'))
    errors.note(pack({"error": said}))
    assert errors.confirm({"callId": "c1", "retryable": False, "code": "other"}) == said
    for claim in (None, 5, {}, {"callId": "c0", "retryable": True}, {"callId": []}, {"callId": "c2", "reason": "dns"}):
        assert errors.confirm(claim) is None
    own = errors.confirm({"callId": "c0", "reason": "decode", "retryable": True, "retryAfter": 9, "code": "NET_RATE"})
    assert own is not None
    assert (own["code"], own["retryable"], own["retryAfter"]) == ("NET_ERROR", False, None)


def test_frames_go_there_and_back() -> None:
    for body in (b"", b"\0" * 100):
        assert unpack(pack({"ä": [1, None]}, body)) == ({"ä": [1, None]}, body)
    for bad in (b"", b"abc", b"\x09\0\0\0{}"):
        with pytest.raises(FrameError):
            unpack(bad)
    error = ScriptError("exception", "", "", net={"retryable": True, "retryAfter": 2})
    assert (error.retryable, error.retry_after) == (True, 2.0)
    assert ScriptError("cpu", "", "").retry_after is None
