"""The near side: runs the examples of the documents, in order, against the small Internet; prints what came of each.

`python -m tests.docs.near` is started under `unshare` with namespaces for users, mounts and networks of its own.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

from tests.adversary.servers import DNS
from tests.adversary.world import connect
from tests.docs.blocks import ROOT, RUN, Block, blocks

SECONDS = 90
"""Time of one example."""
TYPED = "ghp_0123456789abcdefghij\n"
"""What is typed where a command asks for a secret's value."""
_NOT_HERE = ("make ", "pip ")
_FILE = "# file: "
_AWAITED = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def main() -> None:
    """Lay the link, run everything, tell what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resolv = folder / "resolv.conf"
        resolv.write_text(f"nameserver {DNS}\noptions timeout:2 attempts:2 ndots:0\n")
        subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True)
        command = ["unshare", "-n", sys.executable, "-m", "tests.docs.internet", name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
            try:
                connect(far)
                found = {document: _run(document, folder) for document in RUN}
            finally:
                far.kill()
        print(json.dumps(found))


def _run(document: str, folder: Path) -> dict[int, Any]:
    """Run the examples of one document in a directory, and with a data directory, of its own."""
    home = folder / document.replace("/", "-")
    home.mkdir()
    (home / "typed").write_text(TYPED)
    settings = {
        "FAZT_DATA": str(home / "data"),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "SSL_CERT_FILE": str(folder / "ca.pem"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TYPED": str(home / "typed"),
        "GITHUB_TOKEN": TYPED.strip(),
        "OPENAI_API_KEY": "sk-0123456789abcdef",
        "ANTHROPIC_API_KEY": "sk-ant-0123456789abcdef",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
    }
    for variable in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("FAZT_")]:
        del os.environ[variable]
    os.environ.update(settings)
    home = home / "here"
    home.mkdir()
    found: dict[int, Any] = {}
    for block in blocks(document):
        if block.language == "python":
            found[block.line] = _python(block, home)
        elif block.language == "sh":
            found[block.line] = _shell(block, home)
        elif block.text.startswith(_FILE):
            first, _, rest = block.text.partition("\n")
            (home / first.removeprefix(_FILE)).write_text(rest)
    return found


def _python(block: Block, home: Path) -> dict[str, Any]:
    """Run an example in a child that has loaded nothing of fazt's yet."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        said: dict[str, Any] = {"failed": "it ended before its time"}
        signal.alarm(SECONDS)
        try:
            os.chdir(home)
            said = _execute(block)
        finally:
            with os.fdopen(writing, "w") as out:
                json.dump(said, out)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    os.waitpid(child, 0)
    found: dict[str, Any] = json.loads(text) if text else {"failed": f"took more than {SECONDS} s"}
    return found


def _execute(block: Block) -> dict[str, Any]:
    shown = io.StringIO()
    sys.stdout = shown
    place = {"__name__": "__main__"}
    failed = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code = compile(block.text, block.name, "exec", flags=_AWAITED)
            done = eval(code, place)
            if done is not None:
                asyncio.run(_awaited(done))
    except BaseException:
        failed = traceback.format_exc()
    sys.stdout = sys.__stdout__
    return {"failed": failed, "shown": shown.getvalue()}


async def _awaited(done: Any) -> None:
    await done


def _shell(block: Block, home: Path) -> dict[str, Any]:
    """Run an example in one shell, and note the exit code of every command in it."""
    lines = ["set -o pipefail", "rm -f codes"]
    expected = []
    for command, code in block.commands:
        if command.startswith(_NOT_HERE):
            continue
        expected.append([command, code])
        if command.startswith("fazt serve"):
            lines += [_SERVE.replace("COMMAND", command.partition("#")[0])]
        else:
            lines += ["{", command, '} < "$TYPED"']
        lines += ["echo $? >> codes"]
    done = subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        shown, complained = done.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)
        shown, complained = done.communicate()
    codes = (home / "codes").read_text().split() if (home / "codes").exists() else []
    wrong = [
        f"{command}\n  ended with {code}"
        for (command, want), code in zip(expected, codes, strict=False)
        if str(want) != code
    ]
    if len(codes) < len(expected):
        wrong.append(f"it stopped in {expected[len(codes)][0]}")
    return {"failed": "\n".join([*wrong, shown, complained]) if wrong else "", "shown": shown}


_SERVE = """
COMMAND & server=$!
for _ in $(seq 200); do [ -e "$FAZT_DATA/server.json" ] && break; sleep 0.05; done
[ -e "$FAZT_DATA/server.json" ]; served=$?
kill -TERM $server; wait $server
( exit $served )
"""


if __name__ == "__main__":
    main()
