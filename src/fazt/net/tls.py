"""TLS: the configuration that connections are made with, and one TLS session over memory buffers.

The session is ours rather than the event loop's so that both loops behave alike, a response can still be read after a
write has failed, alerts keep their names, and a forked child can drop a connection without a word to the peer.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from fazt.errors import ConfigError, FaztError, Reason

# A record holds at most 16 KiB (RFC 8446 section 5.1); a larger buffer than four of them only costs
_READ = 64 * 1024


class TlsConfig:
    """What servers must prove: certificates by the system's roots and the given extra ones, by name, TLS 1.2 or newer.

    Args:
        ca_files: PEM files of certificate authorities that count beside the system's.

    Raises:
        ConfigError: a file cannot be read or holds no certificate.
    """

    __slots__ = ("_context", "_extra", "_making", "id")

    def __init__(self, ca_files: Sequence[str | Path] = ()) -> None:
        self._extra = tuple(_read_pem(Path(name)) for name in ca_files)
        digest = hashlib.sha256("\n".join(self._extra).encode()).hexdigest()
        self.id = f"system+{digest[:16]}" if self._extra else "system"
        """Names this configuration in the pool's key: equal for equal certificates."""
        self._context: ssl.SSLContext | None = None
        self._making = threading.Lock()

    def __repr__(self) -> str:
        return f"<TlsConfig {self.id}>"

    @property
    def context(self) -> ssl.SSLContext:
        """The context, made at first use: loading the system's roots takes up to 100 ms."""
        with self._making:
            if self._context is not None:
                return self._context
            context = self._build()
            self._context = context
            return context

    async def ready(self) -> ssl.SSLContext:
        """Return the context without stopping the event loop while it is made."""
        if self._context is not None:
            return self._context
        return await asyncio.to_thread(lambda: self.context)

    def _build(self) -> ssl.SSLContext:
        # not create_default_context(), which writes the session keys to a file when SSLKEYLOGFILE is set
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.hostname_checks_common_name = False  # RFC 9525 section 2: only the subject alternative names count
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        for pem in self._extra:
            context.load_verify_locations(cadata=pem)
        return context


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
    """

    __slots__ = ("_in", "_object", "_out", "closed")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        self.closed = False
        """Whether the peer said that it sends no more (close_notify)."""

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
