"""TLS: whom we trust, by which name, and how its failures are told."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from fazt.errors import ConfigError, FaztError, Reason
from fazt.net.aio import Wire
from fazt.net.tls import TlsConfig
from tests.net.origin import (
    HOST,
    LOOPS,
    OK,
    WIRES,
    Origin,
    Peer,
    answering,
    authority,
    call,
    nothing,
    once,
    run,
    send,
    serve,
    server_context,
    sockets,
    soon,
    target,
    until,
    wire,
)

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def roots(ca_file: Path) -> TlsConfig:
    return TlsConfig([ca_file])


def secure(tls: TlsConfig, port: int, **changes: Any) -> Any:
    return target(port, scheme="https", tls=tls.id, **changes)


def failure(
    loop: str, tls: TlsConfig, script: Any, context: ssl.SSLContext | None, *, host: str = HOST, after: float = 10
) -> FaztError:
    before = sockets()
    assert tls.context  # made before the clock runs

    async def main(port: int) -> None:
        net = wire(tls=tls, host=host)
        try:
            await call(net, secure(tls, port, host=host), deadline=soon(after))
        finally:
            assert not net.live
            await net.close()

    with serve(script, tls=context) as origin, pytest.raises(FaztError) as caught:
        run(loop, lambda: main(origin.port))
    assert sockets() == before
    return caught.value


# --- configuration


def test_the_id_stands_for_the_certificates(ca_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pem"
    copy.write_text(ca_file.read_text())
    assert TlsConfig().id == "system"
    assert TlsConfig([ca_file]).id == TlsConfig([copy]).id != "system"
    copy.write_text(trustme.CA().cert_pem.bytes().decode())
    assert TlsConfig([ca_file]).id != TlsConfig([copy]).id != TlsConfig([ca_file, copy]).id


def test_the_context_is_made_once_and_only_when_needed(ca_file: Path) -> None:
    tls = TlsConfig([ca_file])
    assert tls._context is None
    context = tls.context
    assert tls.context is context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) >= 1


def test_the_loop_goes_on_while_the_context_is_made(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = TlsConfig([ca_file, ca_file])  # no other test has made the context of this one
    made: list[bool] = []
    build = TlsConfig._build

    go = threading.Event()

    def slowly(self: TlsConfig) -> ssl.SSLContext:
        assert go.wait(10)
        made.append(True)
        return build(self)

    monkeypatch.setattr(TlsConfig, "_build", slowly)

    async def main() -> int:
        both = asyncio.gather(tls.ready(), tls.ready())
        turns = 0
        while not both.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 4:
                go.set()
        one, two = await both
        assert one is two is tls.context
        return turns

    assert asyncio.run(main()) >= 4
    assert made == [True]


def test_session_keys_are_not_logged(ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert TlsConfig([ca_file]).context.keylog_filename is None


@pytest.mark.parametrize("content", ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END"])
def test_a_bad_ca_file_is_the_operator_s_mistake(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.pem"
    path.write_text(content)
    with pytest.raises(ConfigError):
        TlsConfig([path])
    with pytest.raises(ConfigError):
        TlsConfig([tmp_path / "missing.pem"])


# --- connections


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_calls_by_name_and_keeps_the_connection(loop: str, roots: TlsConfig, newest: ssl.TLSVersion) -> None:
    names: list[str] = []
    context = server_context(HOST, newest=newest)
    context.sni_callback = lambda sock, name, ctx: names.append(name)

    async def main(port: int) -> None:
        net = wire(tls=roots)
        for size in (1, 100, 100_000):
            got = await call(net, secure(roots, port), "POST", body=b"x" * size)
            assert got.body == b"ok"
        await net.close()

    with serve(answering(OK), tls=context) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1
        assert [len(request.partition(b"\r\n\r\n")[2]) for request in origin.requests] == [1, 100, 100_000]
    assert names == [HOST]


@pytest.mark.parametrize("loop", WIRES)
def test_large_bodies_both_ways_at_once(loop: str, roots: TlsConfig) -> None:
    """OpenSSL can't read and write one connection from two threads, so the server reads all, then answers."""
    size = 6 << 20

    async def main(port: int) -> None:
        net = wire(tls=roots)
        got = await call(net, secure(roots, port), "POST", body=b"x" * size, cap=size)
        assert got.body == b"y" * size
        await net.close()

    with serve(answering(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"y" * size), tls=server_context()) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_wildcard_certificate(loop: str, roots: TlsConfig) -> None:
    async def main(port: int) -> None:
        net = wire(tls=roots)
        assert (await call(net, secure(roots, port))).body == b"ok"
        await net.close()

    with serve(answering(OK), tls=server_context("*.example.com")) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("wrong", ["name", "authority", "address", "old"])
def test_certificates_that_don_t_count(loop: str, roots: TlsConfig, wrong: str) -> None:
    context = {
        "name": lambda: server_context("other.example.com"),
        "authority": lambda: server_context(HOST, ca=trustme.CA()),
        "address": lambda: server_context("127.0.0.1"),
        "old": lambda: _expired(),
    }[wrong]()
    error = failure(loop, roots, answering(OK), context)
    assert error.reason is Reason.TLS_FAILED
    assert error.message == "The server's certificate is not valid for this host."
    assert error.detail
    assert ("--ca-file" in error.detail) == (wrong == "authority")


def _expired() -> ssl.SSLContext:
    import datetime

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    authority().issue_cert(HOST, not_after=yesterday).configure_cert(context)
    return context


@pytest.mark.parametrize("loop", WIRES)
def test_the_system_s_roots_don_t_include_ours(loop: str) -> None:
    assert failure(loop, TlsConfig(), answering(OK), server_context()).reason is Reason.TLS_FAILED


@pytest.mark.parametrize("loop", WIRES)
def test_tls_below_1_2_is_refused(loop: str, roots: TlsConfig) -> None:
    context = server_context()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST).configure_cert(old)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
    assert context is not old
    assert failure(loop, roots, answering(OK), old).reason is Reason.TLS_FAILED


@pytest.mark.parametrize("loop", WIRES)
def test_plain_http_on_a_tls_port_is_no_handshake(loop: str, roots: TlsConfig) -> None:
    assert failure(loop, roots, lambda peer: peer.send(OK), None).reason is Reason.TLS_FAILED


# handshake_failure(40) and access_denied(49), fatal, in a TLS 1.2 record (RFC 8446 section 6)
@pytest.mark.parametrize("alert", [40, 49])
@pytest.mark.parametrize("loop", WIRES)
def test_an_alert_in_the_handshake(loop: str, roots: TlsConfig, alert: int) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.send(b"\x15\x03\x03\x00\x02\x02" + bytes([alert]))
        peer.wait_for_end()

    error = failure(loop, roots, script, None)
    assert error.reason is Reason.TLS_FAILED
    assert "ALERT" in (error.detail or "")


@pytest.mark.parametrize("loop", WIRES)
def test_an_alert_after_the_handshake(loop: str, roots: TlsConfig) -> None:
    """TLS 1.3: the server finds only after our Finished that it wants a certificate of us."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST).configure_cert(context)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    assert failure(loop, roots, answering(OK), context).reason is Reason.TLS_FAILED


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_an_end_in_the_handshake(loop: str, roots: TlsConfig, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(65536)
        if how == "reset":
            peer.reset()
        elif how == "half-close":
            peer.sock.shutdown(socket.SHUT_WR)
            peer.wait_for_end()

    assert failure(loop, roots, script, None).reason is Reason.TLS_FAILED


@pytest.mark.parametrize("loop", WIRES)
def test_a_handshake_that_hangs_ends_at_the_deadline(loop: str, roots: TlsConfig) -> None:
    error = failure(loop, roots, lambda peer: peer.wait_for_end(), None, after=0.5)
    assert error.reason is Reason.TLS_HANDSHAKE


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_the_handshake_leaves_no_socket(loop: str, roots: TlsConfig) -> None:
    before = sockets()

    async def main(port: int) -> None:
        net = wire(tls=roots)
        task = asyncio.ensure_future(net.acquire(secure(roots, port), deadline=soon(), on_attempt=nothing))
        await until(lambda: len(net.live) == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not net.live
        await net.close()

    with serve(lambda peer: peer.wait_for_end()) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before


# --- how a TLS connection ends


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("polite", [True, False])
def test_a_body_that_ends_with_the_connection_needs_a_close_notify(loop: str, roots: TlsConfig, polite: bool) -> None:
    """Anybody on the way can forge the end of the TCP connection, nobody that of TLS (RFC 9112 section 9.8)."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\nall of it")
        if polite:
            assert isinstance(peer.sock, ssl.SSLSocket)
            peer.sock.settimeout(0.2)
            try:
                peer.sock.unwrap()
            except OSError:
                pass

    async def main(port: int) -> bytes:
        net = wire(tls=roots)
        try:
            return (await call(net, secure(roots, port))).body
        finally:
            await net.close()

    with serve(script, tls=server_context()) as origin:
        if polite:
            assert run(loop, lambda: main(origin.port)) == b"all of it"
        else:
            with pytest.raises(FaztError) as caught:
                run(loop, lambda: main(origin.port))
            assert caught.value.reason is Reason.PROTOCOL


@pytest.mark.parametrize("loop", LOOPS)
def test_a_whole_answer_needs_no_close_notify(loop: str, roots: TlsConfig) -> None:
    async def main(port: int) -> None:
        net = wire(tls=roots)
        assert (await call(net, secure(roots, port))).body == b"ok"
        await until(lambda: not net.live)
        await net.close()

    with serve(once(OK), tls=server_context()) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_early_413_to_a_large_upload_is_read(loop: str, roots: TlsConfig) -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(answer)

    async def main(port: int) -> None:
        net = wire(tls=roots)
        got = await call(net, secure(roots, port), "POST", body=b"x" * (8 << 20))
        assert (got.head.status, got.body) == (413, b"big")
        await net.close()

    with serve(script, tls=server_context(), rcvbuf=4096) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_an_idle_connection_is_closed_with_a_close_notify(loop: str, roots: TlsConfig) -> None:
    seen: list[bytes] = []
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        try:
            seen.append(peer.sock.recv(100))  # b"" after close_notify, an error without
        except OSError as error:
            seen.append(repr(error).encode())
        done.set()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST).configure_cert(context)

    async def main(port: int) -> None:
        net = wire(tls=roots)
        await call(net, secure(roots, port))
        assert net.drop_idle(lambda where: False) == 1
        await asyncio.sleep(0.01)
        await net.close()

    with serve(script, tls=context) as origin:
        run(loop, lambda: main(origin.port))
        assert done.wait(5)
    assert seen == [b""]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_answer_while_idle_poisons_the_connection(loop: str, roots: TlsConfig) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.origin.go.wait(5)
        peer.send(HEAD + b"Content-Length: 6\r\n\r\nstolen")
        peer.wait_for_end()

    async def main(port: int, origin: Origin) -> None:
        net = wire(tls=roots)
        await call(net, secure(roots, port))
        assert len(net.pool) == 1
        origin.go.set()
        await until(lambda: not net.live)
        await net.close()

    with serve(script, tls=server_context()) as origin:
        run(loop, lambda: main(origin.port, origin))


def test_another_configuration_s_target_is_refused(roots: TlsConfig) -> None:
    async def main() -> None:
        net = Wire(tls=roots, resolver=wire().resolver)
        with pytest.raises(FaztError) as caught:
            await net.acquire(target(1, scheme="https", tls="system"), deadline=soon(), on_attempt=nothing)
        assert caught.value.reason is Reason.INTERNAL
        await net.close()

    asyncio.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_streams_over_tls_under_back_pressure(loop: str, roots: TlsConfig) -> None:
    size = 8 << 20

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        peer.flood(b"z" * 65536, size // 65536)
        peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire(tls=roots)
        connection = await net.acquire(secure(roots, port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        await until(lambda: connection._paused)
        assert connection._reader.size < 1 << 20
        got = 0
        while piece := await connection.read_some(deadline=soon()):
            got += len(piece)
        assert got == size
        connection.release()
        assert len(net.pool) == 1
        await net.close()

    with serve(script, tls=server_context()) as origin:
        run(loop, lambda: main(origin.port))
