"""require() (spec B.4), and what a deploy says of files that can't be compiled."""

from __future__ import annotations

from typing import Any

import pytest

from fazt.functions.guestapi import AppBundle, BakeError


def test_names_are_tried_as_files_then_directories(guest: Any) -> None:
    files = {
        "lib/a.js": "exports.name = 'a'",
        "lib/data.json": '{"n": 1}',
        "lib/dir/index.js": "module.exports = 'index'",
        "lib/same.js": "module.exports = 'file'",
        "lib/same/index.js": "module.exports = 'directory'",
    }
    script = """
    const names = ['./lib/a', './lib/a.js', './lib/data', './lib/data.json', './lib/dir', './lib/dir/',
                   './lib/same', './lib/same/', './lib/../lib/a', 'lib/a']
    names.map((name) => require(name))
    """
    assert guest.text(script, files) == (
        '[{"name":"a"},{"name":"a"},{"n":1},{"n":1},"index","index","file","directory",{"name":"a"},{"name":"a"}]'
    )


def test_F33_paths_are_relative_to_the_requiring_module(guest: Any) -> None:
    files = {
        "deep/er/x.js": "module.exports = require('../y').concat(require('./z'), require('../../top'))",
        "deep/y.js": "module.exports = ['y']",
        "deep/er/z.js": "module.exports = [__filename, __dirname]",
        "top.js": "module.exports = ['top']",
    }
    assert guest.text("require('./deep/er/x')", files) == '["y","api/deep/er/z.js","api/deep/er","top"]'


@pytest.mark.parametrize(
    "name",
    [
        "../private/x",
        "./../x",
        "../../etc/passwd",
        "./lib/../../x",
        "..",
        "/etc/passwd",
        "/api/lib/a",
        ".\\\\x",
        "./a\\0",
    ],
)
def test_F33_nothing_outside_of_api_is_reached(guest: Any, name: str) -> None:
    error = guest.run(f"require('{name}')", {"lib/a.js": ""}).error
    assert error is not None
    assert "api/" in error.message or "inside the app" in error.message


def test_F33_modules_that_require_each_other_see_what_is_exported_so_far(guest: Any) -> None:
    files = {
        "a.js": "exports.early = 1; exports.b = require('./b'); exports.late = 2",
        "b.js": "const a = require('./a'); exports.saw = Object.keys(a); exports.a = a",
    }
    assert guest.text("const a = require('./a'); [a.b.saw, a.b.a === a, a.late]", files) == '[["early"],true,2]'


def test_F33_a_module_that_requires_itself_and_a_long_cycle(guest: Any) -> None:
    files = {f"m{i}.js": f"exports.n = {i}; exports.next = require('./m{(i + 1) % 20}')" for i in range(20)}
    assert guest.text("require('./m0').next.next.n", files) == "2"


def test_a_body_runs_once_in_an_invocation_and_afresh_in_the_next(guest: Any) -> None:
    image = guest.app("require('./count'); require('./count').n", {"count.js": "exports.n = (globalThis.n ?? 0) + 1"})
    assert [guest.text(image) for _ in range(3)] == ["1", "1", "1"]


def test_a_module_that_throws_may_be_asked_for_again(guest: Any) -> None:
    files = {
        "m.js": "globalThis.tries = (globalThis.tries ?? 0) + 1; if (tries < 2) throw new Error('no'); exports.ok = 1"
    }
    assert guest.text("try { require('./m') } catch {} require('./m')", files) == '{"ok":1}'


def test_modules_return_and_keep_their_names_to_themselves(guest: Any) -> None:
    files = {"m.js": "'use strict'; const secret = 1; exports.seen = typeof hidden; return; exports.not = 1"}
    assert guest.text("const hidden = 1; [require('./m'), typeof secret]", files) in (
        '[{"seen":"undefined"},"undefined"]',  # jsbox
        '[{"seen":"number"},"undefined"]',  # a handler is a script: its top level is global
    )


def test_json_is_a_copy_in_each_invocation(guest: Any) -> None:
    image = guest.app("const c = require('./c'); c.n++; require('./c.json').n", {"c.json": '\ufeff{"n": 1}'})
    assert [guest.text(image) for _ in range(2)] == ["2", "2"]


@pytest.mark.parametrize("name", ["lodash", "zod", "dayjs"])
def test_libraries_that_are_not_shipped_are_named(guest: Any, name: str) -> None:
    error = guest.run(f"require('{name}')").error
    assert error is not None
    assert f"no '{name}'" in error.message
    assert guest.text(f"require('{name}').here", {f"{name}.js": "exports.here = 1"}) == "1"


def test_what_is_missing_is_said(guest: Any) -> None:
    assert guest.text("try { require('./nope') } catch (e) { e.code }") == "MODULE_NOT_FOUND"
    for script in ("require('./main')", "require()", "require({})", "require('')", "require('./nope')"):
        assert guest.run(script).error is not None


@pytest.mark.parametrize(
    ("files", "kind", "where"),
    [
        ({}, "missing", "api/main.js"),
        ({"api/main.js": b"const a = ;"}, "syntax", "api/main.js:1"),
        ({"api/main.js": b"1", "api/lib/x.js": b"\n\nlet a b"}, "syntax", "api/lib/x.js:3"),
        ({"api/main.js": b"1", "api/x.js": b"}); evil(); (function () {"}, "syntax", "api/x.js"),
        ({"api/main.js": b"import x from 'y'"}, "syntax", "api/main.js"),
        ({"api/main.js": b"1", "api/x.json": b"{'a': 1}"}, "json", "api/x.json"),
        ({"api/main.js": b"\xff\xfe"}, "encoding", "api/main.js"),
    ],
)
def test_a_mistake_is_found_at_the_deploy(guest: Any, files: dict[str, bytes], kind: str, where: str) -> None:
    with pytest.raises(BakeError) as caught:
        guest.engine.bake(AppBundle("app_1", "shop", files), memory=32 << 20)
    assert caught.value.kind == kind
    assert where in caught.value.message


def test_files_outside_of_api_and_other_kinds_are_not_read(guest: Any) -> None:
    files = {"api/main.js": b"1", "workers/w.js": b"let let", "api/readme.md": b"\xff", "private/x.js": b"}"}
    assert guest.engine.bake(AppBundle("app_1", "shop", files), memory=32 << 20)


def test_nothing_of_the_app_runs_while_it_is_baked(wasm: Any) -> None:
    image = wasm.app(
        "respond([typeof baked, typeof require('./m')])",
        {"m.js": "globalThis.baked = 1; fazt.net.fetch('https://x.example')", "n.js": "for (;;) {}"},
    )
    assert wasm.run(image).error is not None  # m's body runs now, and calls out
    assert wasm.text("typeof globalThis.baked", {"m.js": "globalThis.baked = 1"}) == "undefined"


def test_compiling_is_limited(wasm: Any) -> None:
    with pytest.raises(BakeError) as caught:
        wasm.app("[" * 200_000)
    assert caught.value.kind in ("stack", "syntax")
    with pytest.raises(BakeError) as caught:
        wasm.app("x = [" + "{a:1}," * 400_000 + "]", memory=1 << 20)
    assert caught.value.kind == "memory"
    bundle = AppBundle("app_1", "shop", {"api/main.js": b"x = [" + b"1+1," * 400_000 + b"]"})
    with pytest.raises(BakeError) as caught:
        wasm.engine.bake(bundle, memory=256 << 20, cpu_ms=20)
    assert caught.value.kind == "cpu"
    assert wasm.text("'still fine'") == "still fine"
