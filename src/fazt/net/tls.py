"""TLS: the configuration that connections are made with, and one TLS session over memory buffers.

The session is ours rather than the event loop's so that both loops behave alike, a response can still be read after a
write has failed, alerts keep their names, and a forked child can drop a connection without a word to the peer.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import re
import ssl
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from fazt.errors import ConfigError, FaztError, Reason

# A record holds at most 16 KiB (RFC 8446 section 5.1), and one read gives no more than one
_READ = 16 * 1024
_HTTP_1 = ["http/1.1"]
_VERSIONS = frozenset({"TLSv1.2", "TLSv1.3"})
_CERTIFICATE = re.compile(r"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----[^-]+-----END")
Certificate = str | Path | tuple[str | Path, ...] | tuple[str | Path, str | Path | None, str | bytes | None]
"""Our own certificate: a PEM file that holds chain and key, or (chain, key), or (chain, key, password of the key)."""

_KEPT = 16
"""Contexts that are kept for the next configuration that is equal."""
_contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()
_names: WeakKeyDictionary[ssl.SSLContext, str] = WeakKeyDictionary()
_numbers = itertools.count(1)
_making = threading.Lock()
_offering = threading.Lock()


def _after_fork() -> None:
    global _making, _offering
    _making, _offering = threading.Lock(), threading.Lock()  # a thread that is not in the child may hold the others


os.register_at_fork(after_in_child=_after_fork)


class TlsConfig:
    """What servers must prove: certificates by the system's roots and the given extra ones, by name, TLS 1.2 or newer.

    Equal configurations share one context in a process; it is made when the first of them is used.

    Args:
        ca_files: PEM files of certificate authorities that count beside the system's.
        only: whether they count instead of the system's.
        cert: our own certificate, for servers that ask for one.
        context: a context to use as it is, in place of all this; it must verify certificates and names, and it is
            looked at again for every connection.

    Raises:
        ConfigError: a file cannot be read or holds no certificate; a context that does not verify.
    """

    __slots__ = ("_context", "_extra", "_given", "_only", "_own", "id")

    def __init__(
        self,
        ca_files: Sequence[str | Path] = (),
        *,
        only: bool = False,
        cert: Certificate | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._extra = tuple(_read_pem(Path(name)) for name in ca_files)
        self._only = only
        self._own: ssl.SSLContext | None = None
        """Holds our certificate and its key, so that neither files nor password are needed later."""
        self._context: ssl.SSLContext | None = None
        self._given = context is not None
        self.id = "system"
        """Names this configuration in the pool's key: equal for equal certificates, never a secret."""
        if context is not None:
            if ca_files or only or cert is not None:
                raise ConfigError(
                    "an SSLContext is used as it is: certificates cannot be given beside it",
                    hint="load them into the context: load_verify_locations(), load_cert_chain()",
                )
            _check_given(context)
            self._context = context
            self.id = _names.setdefault(context, f"context-{next(_numbers)}")
            return
        if only and not ca_files:
            raise ConfigError("no certificate authority is left", hint="only=True needs ca_files")
        if self._extra:
            self.id = f"{'own' if only else 'system'}+{_digest(self._extra)}"
        if cert is not None:
            self._own, digest = _load_own(cert)
            self.id += f"+cert-{digest}"

    def __repr__(self) -> str:
        return f"<TlsConfig {self.id}>"

    @property
    def context(self) -> ssl.SSLContext:
        """The context, made at first use: loading the system's roots takes up to 100 ms.

        Raises:
            ConfigError: it is the caller's own and does not verify any more.
        """
        context = self._context
        if context is None:
            context = self._context = self._share()
        elif self._given:
            _check_given(context)
        return context

    async def ready(self) -> ssl.SSLContext:
        """Return the context without stopping the event loop while it is made."""
        if self._context is not None:
            return self.context
        return await asyncio.to_thread(lambda: self.context)

    def _share(self) -> ssl.SSLContext:
        with _making:
            context = _contexts.pop(self.id, None)
            if context is None:
                context = self._build()
            _contexts[self.id] = context
            if len(_contexts) > _KEPT:
                _contexts.popitem(last=False)
            return context

    def _build(self) -> ssl.SSLContext:
        context = self._own or _client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False  # RFC 9525 section 2: only the subject alternative names count
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if not self._only:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        for pem in self._extra:
            context.load_verify_locations(cadata=pem)
        return context


def _client_context() -> ssl.SSLContext:
    # not create_default_context(), which writes the session keys to a file when SSLKEYLOGFILE is set
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _check_given(context: ssl.SSLContext) -> None:
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ConfigError("the SSLContext is a server's", hint="make one with ssl.create_default_context()")
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigError(
            "the SSLContext does not verify the server's certificate and name",
            hint="keep verify_mode=CERT_REQUIRED and check_hostname=True; "
            "to trust a root of your own, name its PEM file or use load_verify_locations()",
        )
    # where OpenSSL's own configuration decides, as Debian has it, the handshake is looked at instead
    if ssl.TLSVersion.SSLv3 <= context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise ConfigError(
            "the SSLContext allows versions of TLS that are broken",
            hint="set minimum_version = ssl.TLSVersion.TLSv1_2 or newer",
        )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _load_own(cert: Certificate) -> tuple[ssl.SSLContext, str]:
    """Return a context that holds this certificate and its key, and a digest of the certificate alone."""
    parts = cert if isinstance(cert, tuple) else (cert,)
    hint = "name PEM files: cert=CERTIFICATE (with its key), (CERTIFICATE, KEY) or (CERTIFICATE, KEY, PASSWORD)"
    if not 1 <= len(parts) <= 3 or parts[0] is None:
        raise ConfigError("the client certificate is not given as files", hint=hint)
    chain, key, password = (*parts, None, None)[:3]
    context = _client_context()
    path = Path(str(chain))
    try:
        text = path.read_text("latin-1")
        # a password that is a function keeps OpenSSL from asking for one on the terminal
        context.load_cert_chain(path, None if key is None else str(key), password=lambda: password or "")
        same = text == path.read_text("latin-1")
    except OSError as error:  # ssl.SSLError is one, and its text says nothing that helps
        why = "its key is missing, belongs to another certificate or needs a password"
        if not isinstance(error, ssl.SSLError):
            why = error.strerror or "it cannot be read"
        raise ConfigError(f"the client certificate {chain} cannot be used: {why}", hint=hint) from None
    except ValueError:
        raise ConfigError(
            f"the client certificate {chain} cannot be used: its password is too long", hint=hint
        ) from None
    if not same:
        raise ConfigError(f"the client certificate {chain} changed while it was read", hint="try again")
    return context, _digest(_CERTIFICATE.findall(text))  # never of the key, which may stand beside it


def _read_pem(path: Path) -> str:
    hint = "name a PEM file: --ca-file PATH or FAZT_CA_FILE"
    try:
        pem = path.read_text("ascii", errors="ignore")  # comments between certificates may be in any coding
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"the CA file {path} cannot be used: {error.strerror or error}", hint=hint) from None
    except ValueError:
        raise ConfigError(f"the CA file {path} holds no certificate", hint=hint) from None
    return pem


class TlsSession:
    """One client session. Bytes from the network go in, bytes for the network come out of `outgoing()`.

    Args:
        context: as `TlsConfig.context`.
        host: the canonical name that SNI carries and the certificate must be for.
        protocols: what is offered to the server, the best first (RFC 7301).
    """

    __slots__ = ("_in", "_object", "_out", "closed")

    def __init__(self, context: ssl.SSLContext, host: str, *, protocols: list[str] | None = None) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        with _offering:  # a session keeps what its context says when it is made, and others share the context
            context.set_alpn_protocols(protocols or _HTTP_1)
            self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        self.closed = False
        """Whether the peer said that it sends no more (close_notify)."""

    @property
    def protocol(self) -> str | None:
        """What the server chose of the protocols; None when it chose none."""
        return self._object.selected_alpn_protocol()

    def handshake(self, data: bytes) -> bool:
        """Take bytes from the network; returns whether the handshake is complete.

        Raises:
            FaztError: `tls_failed`.
        """
        self._in.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise tls_failure(error) from None
        if self._object.version() not in _VERSIONS:  # a context of the caller's may allow more than ours
            message = "The server speaks only versions of TLS that are broken."
            raise FaztError(Reason.TLS_FAILED, message, detail=self._object.version())
        return True

    def decrypt(self, data: bytes) -> bytes:
        """Take bytes from the network and return what they say; sets `closed` at the peer's close_notify.

        Raises:
            FaztError: `tls_failed`, for example an alert (TLS 1.3 servers refuse a client after the handshake).
        """
        self._in.write(data)
        parts: list[bytes] = []
        session = self._object
        try:
            while True:
                part = session.read(_READ)
                if not part:
                    self.closed = True
                    break
                parts.append(part)
                if not self._in.pending and not session.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        except ssl.SSLError as error:
            raise tls_failure(error) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def decrypt_into(self, data: bytes, buffer: memoryview) -> int:
        """Take bytes from the network and put what they say into a buffer; returns how much that is.

        As `decrypt`, without objects of its own. The buffer must have room for all of it: what they carry is no more
        than they are, and what waited of a record that is not complete is below 17 KiB.

        Raises:
            FaztError: as `decrypt`.
        """
        self._in.write(data)
        filled = 0
        session = self._object
        try:
            while True:
                number: Any = session.read(len(buffer) - filled, buffer[filled:])
                if not number:
                    self.closed = True
                    break
                filled += number
                if not self._in.pending and not session.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.closed = True
        except ssl.SSLError as error:
            raise tls_failure(error) from None
        return filled

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Return the records that carry `data`.

        Raises:
            FaztError: `tls_failed`.
        """
        try:
            self._object.write(data)
        except ssl.SSLError as error:
            raise tls_failure(error) from None
        return self._out.read()

    def outgoing(self) -> bytes:
        """Return what the session itself has to send (handshake, alerts, key updates)."""
        return self._out.read() if self._out.pending else b""

    def close(self) -> bytes:
        """Return our close_notify."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it wants the peer's close_notify, for which we don't wait
        return self.outgoing()


_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})
"""X509_V_ERR_* of OpenSSL: a self-signed certificate, alone or in the chain, or an issuer that is not known."""


def tls_failure(error: ssl.SSLError) -> FaztError:
    """Say what went wrong with TLS; the certificate's or alert's own words go to the operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        message = "The server's certificate is not valid for this host."
        way_out = "; --ca-file FILE trusts a root of your own" if error.verify_code in _UNKNOWN_ISSUER else ""
        return FaztError(Reason.TLS_FAILED, message, detail=f"{error.verify_message}{way_out}")
    return FaztError(
        Reason.TLS_FAILED, "No secure connection to the server could be kept.", detail=error.reason or str(error)
    )
