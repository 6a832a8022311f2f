"""A child that ends as programs do, by its interpreter's own clearing up, says nothing over what it inherited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.origin import HOST, OK, answering, authority, serve, server_context

PROGRAM = """
import multiprocessing, os, sys, time
from fazt.core.call import Target
from fazt.net.http1 import encode_head
from fazt.net.sync import SyncWire
from fazt.net.sync_resolve import SyncResolver
from fazt.net.tls import TlsConfig

port, scheme, ca, how = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
HOST = "api.example.com"
net = SyncWire(tls=TlsConfig([ca]), resolver=SyncResolver({HOST: ("127.0.0.1",)}))
where = Target(scheme, HOST, port, "app", net.tls_id, ("127.0.0.0/8",))

def call(fresh=False):
    until = time.monotonic() + 10
    connection = net.acquire(where, deadline=until, on_attempt=lambda: None, fresh=fresh)
    head = encode_head("GET", "/" + str(os.getpid()), authority=HOST, fields=(), body=None)
    connection.send(head, None, deadline=until, on_sent=lambda: None)
    assert connection.read(cap=10, deadline=until) == b"ok"
    connection.release()

if __name__ == "__main__":
    call()
    held = net.acquire(where, deadline=time.monotonic() + 10, on_attempt=lambda: None, fresh=True)  # in use at the fork
    if how == "os.fork":
        child = os.fork()
        if child == 0:
            call()
            net.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    else:
        child = multiprocessing.get_context("fork").Process(target=call)
        child.start()
        child.join()
        assert child.exitcode == 0
    call()
    head = encode_head("GET", "/held", authority=HOST, fields=(), body=None)
    held.send(head, None, deadline=time.monotonic() + 10, on_sent=lambda: None)
    assert held.read(cap=10, deadline=time.monotonic() + 10) == b"ok"
    held.release()
    assert len(net.pool) == 2
    net.close()
"""


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_parent_s_connections_outlive_a_child(scheme: str, how: str, tmp_path: Path) -> None:
    ca, program = tmp_path / "ca.pem", tmp_path / "program.py"
    authority().cert_pem.write_to_path(str(ca))
    program.write_text(PROGRAM)
    with serve(answering(OK), tls=server_context(HOST) if scheme == "https" else None) as origin:
        command = [sys.executable, str(program), str(origin.port), scheme, str(ca), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        paths = [request.split(b" ")[1] for request in origin.requests]
        assert origin.accepted == 3  # two of the parent's, one of the child's
        assert len(paths) == 4
        assert paths[0] == paths[2] != paths[1]
        assert paths[3] == b"/held"
