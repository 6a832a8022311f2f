"""What did not happen in time, in words that both wires use."""

from __future__ import annotations

from fazt.errors import FaztError, Reason

_WORDS = {
    Reason.TLS_HANDSHAKE: "The TLS handshake did not finish in time.",
    Reason.BODY: "The server did not finish its answer in time.",
    Reason.WRITE: "The server did not take the request in time.",
    Reason.POOL_WAIT: "No connection became free in time.",
}


def given_up() -> FaztError:
    """Return the error of a call whose client was closed under it."""
    return FaztError(Reason.ABORTED, "The client was closed before the call had ended.")


def late(reason: Reason) -> FaztError:
    """Say what did not happen in time."""
    return FaztError(reason, _WORDS.get(reason, "The server did not answer in time."))
