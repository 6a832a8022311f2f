"""TLS from the client's side: our own certificate, roots of our own, a caller's context, one context for many."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from fazt.errors import ConfigError, FaztError, Reason
from fazt.net import tls as tls_module
from fazt.net.aio import Wire
from fazt.net.resolve import Resolver
from fazt.net.sync import SyncWire
from fazt.net.sync_resolve import SyncResolver
from fazt.net.tls import TlsConfig, TlsSession
from tests.net.origin import GRANT, HOST, OK, Origin, Peer, answering, serve, server_context, target
from tests.net.origin import authority as server_authority

PASSWORD = "a-pass-word-nobody-may-read"


@pytest.fixture(scope="module")
def server_roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roots") / "server.pem"
    server_authority().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    return trustme.CA()


class Own:
    """A client certificate as files."""

    def __init__(self, ca: trustme.CA, directory: Path, name: str = "client.example") -> None:
        leaf = ca.issue_cert(name)
        directory.mkdir(parents=True, exist_ok=True)
        self.both, self.chain = directory / "both.pem", directory / "chain.pem"
        self.key, self.locked = directory / "key.pem", directory / "locked.pem"
        self.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.both.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        self.locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(PASSWORD.encode()),
            )
        )


@pytest.fixture
def own(clients: trustme.CA, tmp_path: Path) -> Own:
    return Own(clients, tmp_path / "own")


def asking(clients: trustme.CA, *, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context that asks for a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_authority().issue_cert(HOST).configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    if newest is not None:
        context.maximum_version = newest
    return context


def _async_call(tls: TlsConfig, port: int) -> int:
    async def main() -> int:
        net = Wire(tls=tls, resolver=Resolver({HOST: ("127.0.0.1",)}))
        deadline = asyncio.get_running_loop().time() + 20
        try:
            where = target(port, scheme="https", tls=tls.id)
            connection = await net.acquire(where, deadline=deadline, on_attempt=lambda: None)
            head = await connection.send(REQUEST, None, deadline=deadline, on_sent=lambda: None)
            await connection.read(cap=1000, deadline=deadline)
            return head.status
        finally:
            await net.close()

    return asyncio.run(main())


def _sync_call(tls: TlsConfig, port: int) -> int:
    import time

    net = SyncWire(tls=tls, resolver=SyncResolver({HOST: ("127.0.0.1",)}))
    deadline = time.monotonic() + 20
    try:
        connection = net.acquire(target(port, scheme="https", tls=tls.id), deadline=deadline, on_attempt=lambda: None)
        head = connection.send(REQUEST, None, deadline=deadline, on_sent=lambda: None)
        connection.read(cap=1000, deadline=deadline)
        return head.status
    finally:
        net.close()


REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
Call = Callable[[TlsConfig, int], int]
BOTH = pytest.mark.parametrize("call", [_sync_call, _async_call], ids=["sync", "async"])


def refusal(act: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        act()
    return caught.value


# --- client certificates


@BOTH
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_shows_its_certificate_to_a_server_that_asks(
    call: Call, newest: ssl.TLSVersion, own: Own, clients: trustme.CA, server_roots: Path
) -> None:
    seen: list[Any] = []

    def script(peer: Peer) -> None:
        assert isinstance(peer.sock, ssl.SSLSocket)
        seen.append(peer.sock.getpeercert())
        answering(OK)(peer)

    with serve(script, tls=asking(clients, newest=newest)) as origin:
        for cert in (own.both, (own.both,), (own.chain, own.key), (own.chain, own.locked, PASSWORD)):
            assert call(TlsConfig([server_roots], cert=cert), origin.port) == 200
    assert [one["subjectAltName"] for one in seen] == [(("DNS", "client.example"),)] * 4


@BOTH
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_asks_refuses_who_shows_nothing_or_the_wrong_one(
    call: Call, newest: ssl.TLSVersion, clients: trustme.CA, server_roots: Path, tmp_path: Path
) -> None:
    stranger = Own(trustme.CA(), tmp_path)
    with serve(answering(OK), tls=asking(clients, newest=newest)) as origin:
        for cert in (None, stranger.both):
            with pytest.raises(FaztError) as caught:
                call(TlsConfig([server_roots], cert=cert), origin.port)
            # the alert of TLS 1.3 comes after the handshake, and a reset may come before it
            assert caught.value.reason in (Reason.TLS_FAILED, Reason.PROTOCOL)
    assert not origin.requests


def test_the_id_names_the_certificate_and_holds_no_secret(own: Own, clients: trustme.CA, tmp_path: Path) -> None:
    other = Own(clients, tmp_path / "other")
    plain = TlsConfig()
    first = TlsConfig(cert=own.both)
    same = TlsConfig(cert=(str(own.chain), str(own.locked), PASSWORD.encode()))
    assert first.id == same.id != plain.id
    assert TlsConfig(cert=other.both).id not in (first.id, plain.id)
    key = own.key.read_text()
    for text in (first.id, repr(first), repr(same), str(same)):
        assert PASSWORD not in text
        assert not any(line in text for line in key.splitlines())


def test_the_files_are_not_needed_once_they_were_read(own: Own, clients: trustme.CA, server_roots: Path) -> None:
    tls = TlsConfig([server_roots], cert=(own.chain, own.locked, PASSWORD))
    for path in (own.chain, own.locked):
        path.unlink()
    assert not any(PASSWORD in str(getattr(tls, name)) for name in TlsConfig.__slots__)
    with serve(answering(OK), tls=asking(clients)) as origin:
        assert _sync_call(tls, origin.port) == 200


def test_a_certificate_that_cannot_be_used_is_said_at_once(own: Own, clients: trustme.CA, tmp_path: Path) -> None:
    other = Own(clients, tmp_path / "other")
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    wrong: list[Any] = [
        empty,
        tmp_path / "missing.pem",
        tmp_path,
        own.chain,  # no key
        own.key,  # no certificate
        (own.chain, other.key),
        (own.chain, own.locked),
        (own.chain, own.locked, "wrong-" + PASSWORD),
        (own.chain, own.locked, "x" * 5000),
        (own.chain, own.key, None, None),
        (),
        (None, own.key),
    ]
    for cert in wrong:
        refused = refusal(lambda cert=cert: TlsConfig(cert=cert))  # type: ignore[misc]
        text = f"{refused} {refused.hint} {refused.__cause__} {refused!r}"
        assert PASSWORD not in text
        assert "xxxx" not in text
        assert "PRIVATE KEY" not in text


# --- roots of our own


@BOTH
def test_roots_that_count_alone_leave_the_system_s_out(call: Call, server_roots: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange.pem"
    trustme.CA().cert_pem.write_to_path(str(strange))
    alone = TlsConfig([server_roots], only=True)
    assert len(alone.context.get_ca_certs()) == 1
    assert alone.id != TlsConfig([server_roots]).id
    with serve(answering(OK), tls=server_context()) as origin:
        assert call(alone, origin.port) == 200
        with pytest.raises(FaztError) as caught:
            call(TlsConfig([strange], only=True), origin.port)
    assert caught.value.reason is Reason.TLS_FAILED


def test_no_roots_at_all_are_refused() -> None:
    assert "ca_files" in str(refusal(lambda: TlsConfig(only=True)).hint)


# --- a caller's own context


def _given(roots: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(roots))


@BOTH
def test_a_context_of_the_caller_is_used_as_it_is(
    call: Call, own: Own, clients: trustme.CA, server_roots: Path
) -> None:
    context = _given(server_roots)
    context.load_cert_chain(own.both)
    tls = TlsConfig(context=context)
    assert tls.context is context
    with serve(answering(OK), tls=asking(clients)) as origin:
        assert call(tls, origin.port) == 200
    with serve(answering(OK), tls=server_context("other.example")) as origin, pytest.raises(FaztError) as caught:
        call(tls, origin.port)
    assert caught.value.reason is Reason.TLS_FAILED


def test_one_context_has_one_name() -> None:
    one, two = ssl.create_default_context(), ssl.create_default_context()
    assert TlsConfig(context=one).id == TlsConfig(context=one).id
    assert len({TlsConfig(context=one).id, TlsConfig(context=two).id, TlsConfig().id}) == 3


def _no_name(context: ssl.SSLContext) -> None:
    context.check_hostname = False


def _no_proof(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def _maybe(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_OPTIONAL


def _old(context: ssl.SSLContext) -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1


WEAK = pytest.mark.parametrize("weaken", [_no_name, _no_proof, _maybe, _old])


@WEAK
def test_a_context_that_does_not_verify_is_refused(weaken: Callable[[ssl.SSLContext], None]) -> None:
    context = ssl.create_default_context()
    weaken(context)
    refused = refusal(lambda: TlsConfig(context=context))
    assert refused.hint


@WEAK
def test_a_context_that_stops_verifying_is_refused_at_the_next_connection(
    weaken: Callable[[ssl.SSLContext], None], server_roots: Path
) -> None:
    context = _given(server_roots)
    tls = TlsConfig(context=context)
    with serve(answering(OK), tls=server_context()) as origin:
        assert _sync_call(tls, origin.port) == 200
        weaken(context)
        for call in (_sync_call, _async_call):
            refusal(lambda call=call: call(tls, origin.port))  # type: ignore[misc]
        assert len(origin.requests) == 1


@BOTH
def test_a_version_that_a_context_allows_is_refused_all_the_same(call: Call, server_roots: Path) -> None:
    """Where OpenSSL's configuration names the oldest version, a context does not show it."""
    context, server = _given(server_roots), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_authority().issue_cert(HOST).configure_cert(server)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    for one in (context, server):
        one.set_ciphers("ALL:@SECLEVEL=0")
    with serve(answering(OK), tls=server) as origin, pytest.raises(FaztError) as caught:
        call(TlsConfig(context=context), origin.port)
    assert caught.value.reason is Reason.TLS_FAILED
    assert caught.value.detail == "TLSv1.1"
    assert not origin.requests


def test_a_context_of_a_server_is_refused() -> None:
    refusal(lambda: TlsConfig(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))


def test_nothing_is_given_beside_a_context(own: Own, server_roots: Path) -> None:
    beside: list[dict[str, Any]] = [{"ca_files": [server_roots]}, {"cert": own.both}, {"only": True}]
    for more in beside:
        refusal(lambda more=more: TlsConfig(context=ssl.create_default_context(), **more))  # type: ignore[misc]


# --- one context for many


def test_equal_configurations_share_one_context(own: Own, server_roots: Path) -> None:
    one, two = TlsConfig([server_roots], cert=own.both), TlsConfig([server_roots], cert=(own.chain, own.key))
    assert one.context is two.context
    assert one.context is not TlsConfig([server_roots]).context
    assert TlsConfig([server_roots]).context is TlsConfig([server_roots]).context


def test_many_threads_make_it_once(server_roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = tmp_path / "fresh.pem"
    trustme.CA().cert_pem.write_to_path(str(fresh))
    made: list[ssl.SSLContext] = []
    build = TlsConfig._build

    def noted(config: TlsConfig) -> ssl.SSLContext:
        made.append(build(config))
        return made[-1]

    monkeypatch.setattr(TlsConfig, "_build", noted)
    configs = [TlsConfig([fresh]) for _ in range(8)]
    threads = [threading.Thread(target=lambda one=one: one.context) for one in configs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert {id(one.context) for one in configs} == {id(made[0])}


def test_only_so_many_contexts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_module, "_contexts", type(tls_module._contexts)())
    monkeypatch.setattr(TlsConfig, "_build", lambda config: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    configs = [TlsConfig() for _ in range(40)]
    for number, config in enumerate(configs):
        config.id = f"test-{number}"
        assert config.context
    assert list(tls_module._contexts) == [f"test-{number}" for number in range(24, 40)]


def test_a_child_does_not_wait_for_a_lock_of_its_parent(server_roots: Path) -> None:
    """A thread was making a context when the process was forked: it is not there to let the lock go."""
    with tls_module._making, tls_module._offering:
        child = os.fork()
        if child == 0:
            try:
                context = TlsConfig([server_roots]).context
                TlsSession(context, HOST)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- what is offered


def test_each_connection_offers_what_it_can_speak(server_roots: Path) -> None:
    """Two clients may share a context of which only one speaks HTTP/2."""
    context = TlsConfig([server_roots]).context
    new, old = TlsSession(context, HOST, protocols=["h2", "http/1.1"]), TlsSession(context, HOST)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_authority().issue_cert(HOST).configure_cert(server)
    server.set_alpn_protocols(["h2", "http/1.1"])
    assert [_negotiate(new, server), _negotiate(old, server)] == ["h2", "http/1.1"]


def _negotiate(session: TlsSession, context: ssl.SSLContext) -> str | None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.settimeout(20)
    done: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: done.append(context.wrap_socket(theirs, server_side=True)))
    thread.start()
    complete = session.handshake(b"")
    ours.sendall(session.outgoing())
    while not complete:
        complete = session.handshake(ours.recv(65536))
        ours.sendall(session.outgoing())
    thread.join()
    ours.close()
    done[0].close()
    return session.protocol


def test_the_grant_of_these_tests_is_loopback() -> None:
    origin = Origin(1)
    assert target(origin.port).grant == GRANT
