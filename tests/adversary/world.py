"""The near side of the world: makes two namespaces with a link, then runs a program in it and prints what it found.

`python -m tests.adversary.world` is started under `unshare` with namespaces for users, mounts and networks of its own.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NEAR = "11.0.0.1"


def connect(far: subprocess.Popen[str]) -> None:
    """Lay a link to the far side, over which everything but this side itself is reached."""
    assert far.stdin is not None and far.stdout is not None
    assert far.stdout.readline() == "namespace\n"
    for command in (
        "ip link set lo up",
        f"ip link add near type veth peer name far netns {far.pid}",
        "ip link set near up",
        f"ip addr add {NEAR}/32 dev near",
        "ip -6 addr add 2a00::1/128 dev near nodad",
        "ip route add 11.0.0.2/32 dev near",
        "ip route add default via 11.0.0.2",
        "ip -6 route add 2a00::2/128 dev near",
        "ip -6 route add default via 2a00::2",
    ):
        subprocess.run(command.split(), check=True)
    far.stdin.write("go\n")
    far.stdin.flush()
    assert far.stdout.readline() == "serving\n"


def main() -> None:
    """Run the scenarios of a module and print their results and what the far side saw."""
    from tests.adversary.servers import DNS

    with tempfile.TemporaryDirectory() as folder:
        log, resolv = Path(folder) / "log", Path(folder) / "resolv.conf"
        log.touch()
        resolv.write_text(f"nameserver {DNS}\noptions timeout:2 attempts:2 ndots:0\n")
        subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True)
        command = ["unshare", "-n", sys.executable, "-m", "tests.adversary.servers", str(log)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
            try:
                connect(far)
                results: Any = importlib.import_module(sys.argv[1]).run()
                seen = [json.loads(line) for line in log.read_text().splitlines()]
            finally:
                far.kill()
        print(json.dumps({"results": results, "seen": seen}))


if __name__ == "__main__":
    main()
