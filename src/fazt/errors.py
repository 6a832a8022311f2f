"""Every way a call or a command can fail: one closed enum of codes, one of reasons, one family of exceptions.

The text of an error is written for whoever made the call (a script, a public body) and names no address, rule,
query string or secret; what an operator needs beside it stands in `detail`, which only the log and `explain` show.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The class of a failure, stable for branching in code that fazt does not control."""

    NET_BLOCKED = "NET_BLOCKED"
    NET_TIMEOUT = "NET_TIMEOUT"
    NET_LIMIT = "NET_LIMIT"
    NET_BUDGET = "NET_BUDGET"
    NET_SIZE = "NET_SIZE"
    NET_ERROR = "NET_ERROR"
    NET_AUTH = "NET_AUTH"
    NET_RATE = "NET_RATE"


class Reason(StrEnum):
    """The gate or the step that failed; each belongs to exactly one `Code`."""

    # NET_BLOCKED
    BAD_URL = "bad_url"
    SCHEME_NOT_ALLOWED = "scheme_not_allowed"
    USERINFO = "userinfo"
    IP_LITERAL = "ip_literal"
    HOST_NOT_GRANTED = "host_not_granted"
    DENIED_BY_RULE = "denied_by_rule"
    METHOD_NOT_GRANTED = "method_not_granted"
    PATH_NOT_GRANTED = "path_not_granted"
    PORT_NOT_GRANTED = "port_not_granted"
    PRIVATE_ADDRESS = "private_address"
    OWN_LISTENER = "own_listener"
    REDIRECT_LIMIT = "redirect_limit"
    REDIRECT_LOOP = "redirect_loop"
    REDIRECT_BODY = "redirect_body"
    PATH_REFUSED = "path_refused"
    # NET_AUTH
    SECRET_UNKNOWN = "secret_unknown"  # noqa: S105 - a reason, not a password
    SECRET_WRONG_HOST = "secret_wrong_host"  # noqa: S105
    SECRET_WRONG_APP = "secret_wrong_app"  # noqa: S105
    SECRET_NEEDS_HTTPS = "secret_needs_https"  # noqa: S105
    PLACEHOLDER_MISPLACED = "placeholder_misplaced"
    # NET_LIMIT
    CALLS_EXCEEDED = "calls_exceeded"
    APP_CONCURRENCY = "app_concurrency"
    GLOBAL_CONCURRENCY = "global_concurrency"
    POOL_WAIT = "pool_wait"
    # NET_BUDGET
    WALL_EXHAUSTED = "wall_exhausted"
    NET_BUDGET_EXHAUSTED = "net_budget_exhausted"
    NO_BUDGET_HERE = "no_budget_here"
    # NET_RATE
    HOST_RATE = "host_rate"
    BREAKER_OPEN = "breaker_open"
    # NET_TIMEOUT
    DNS = "dns"
    CONNECT = "connect"
    TLS_HANDSHAKE = "tls_handshake"
    WRITE = "write"
    FIRST_BYTE = "first_byte"
    BODY = "body"
    TOTAL = "total"
    ABORTED = "aborted"
    # NET_SIZE
    REQUEST_BODY = "request_body"
    RESPONSE_BODY = "response_body"
    RESPONSE_HEADERS = "response_headers"
    DECODED_BODY = "decoded_body"
    LENGTH = "length"
    # NET_ERROR
    BAD_OPTION = "bad_option"
    DNS_FAILED = "dns_failed"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    PROTOCOL = "protocol"
    DECODE = "decode"
    STORE = "store"
    NOT_CACHED = "not_cached"
    STATUS = "status"
    RANGE = "range"
    CHECKSUM = "checksum"
    FILE_WRITE = "file_write"
    FILE_RENAME = "file_rename"
    FILE_EXISTS = "file_exists"
    FILE_LOCKED = "file_locked"
    INTERNAL = "internal"


_BY_CODE: dict[Code, tuple[Reason, ...]] = {
    Code.NET_BLOCKED: (
        Reason.BAD_URL,
        Reason.SCHEME_NOT_ALLOWED,
        Reason.USERINFO,
        Reason.IP_LITERAL,
        Reason.HOST_NOT_GRANTED,
        Reason.DENIED_BY_RULE,
        Reason.METHOD_NOT_GRANTED,
        Reason.PATH_NOT_GRANTED,
        Reason.PORT_NOT_GRANTED,
        Reason.PRIVATE_ADDRESS,
        Reason.OWN_LISTENER,
        Reason.REDIRECT_LIMIT,
        Reason.REDIRECT_LOOP,
        Reason.REDIRECT_BODY,
        Reason.PATH_REFUSED,
    ),
    Code.NET_AUTH: (
        Reason.SECRET_UNKNOWN,
        Reason.SECRET_WRONG_HOST,
        Reason.SECRET_WRONG_APP,
        Reason.SECRET_NEEDS_HTTPS,
        Reason.PLACEHOLDER_MISPLACED,
    ),
    Code.NET_LIMIT: (
        Reason.CALLS_EXCEEDED,
        Reason.APP_CONCURRENCY,
        Reason.GLOBAL_CONCURRENCY,
        Reason.POOL_WAIT,
    ),
    Code.NET_BUDGET: (Reason.WALL_EXHAUSTED, Reason.NET_BUDGET_EXHAUSTED, Reason.NO_BUDGET_HERE),
    Code.NET_RATE: (Reason.HOST_RATE, Reason.BREAKER_OPEN),
    Code.NET_TIMEOUT: (
        Reason.DNS,
        Reason.CONNECT,
        Reason.TLS_HANDSHAKE,
        Reason.WRITE,
        Reason.FIRST_BYTE,
        Reason.BODY,
        Reason.TOTAL,
        Reason.ABORTED,
    ),
    Code.NET_SIZE: (
        Reason.REQUEST_BODY,
        Reason.RESPONSE_BODY,
        Reason.RESPONSE_HEADERS,
        Reason.DECODED_BODY,
        Reason.LENGTH,
    ),
    Code.NET_ERROR: (
        Reason.BAD_OPTION,
        Reason.DNS_FAILED,
        Reason.CONNECT_FAILED,
        Reason.TLS_FAILED,
        Reason.PROTOCOL,
        Reason.DECODE,
        Reason.STORE,
        Reason.NOT_CACHED,
        Reason.STATUS,
        Reason.RANGE,
        Reason.CHECKSUM,
        Reason.FILE_WRITE,
        Reason.FILE_RENAME,
        Reason.FILE_EXISTS,
        Reason.FILE_LOCKED,
        Reason.INTERNAL,
    ),
}

CODE_OF: dict[Reason, Code] = {reason: code for code, reasons in _BY_CODE.items() for reason in reasons}
"""The one code of each reason."""

RETRYABLE: frozenset[Reason] = frozenset(
    {
        Reason.APP_CONCURRENCY,
        Reason.GLOBAL_CONCURRENCY,
        Reason.POOL_WAIT,
        Reason.WALL_EXHAUSTED,
        Reason.NET_BUDGET_EXHAUSTED,
        Reason.HOST_RATE,
        Reason.BREAKER_OPEN,
        Reason.FILE_LOCKED,
    }
)
"""Reasons after which the same call may succeed later without anybody changing anything."""


class FaztError(Exception):
    """A call that was refused or that failed.

    Args:
        reason: the step that failed; decides `code` and the default of `retryable`.
        message: one sentence for whoever made the call; no query, address, rule or secret in it.
        retryable: whether the same call may succeed later; by default `reason in RETRYABLE`.
        retry_after: seconds until a retry can succeed, where that is known.
        hop: index of the redirect hop that failed (0, the first request, is left as None).
        address_class: with `private_address`: the class of the refused address (`core.addresses`).
        detail: what an operator may see beside the message (addresses, rule ids, hints); never a secret.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
        hop: int | None = None,
        address_class: str | None = None,
        detail: str | None = None,
        call_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = reason in RETRYABLE if retryable is None else retryable
        self.retry_after = retry_after
        self.hop = hop
        self.address_class = address_class
        self.detail = detail
        self.call_id = call_id

    @property
    def code(self) -> Code:
        """The class of the failure."""
        return CODE_OF[self.reason]

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason.value!r}, {self.message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # made anew without its constructor, whose arguments are not `args`: errors come back from other processes
        return _made_again, (type(self), self.args, dict(self.__dict__))

    def public(self) -> dict[str, Any]:
        """Return the fields that scripts and public bodies may see, with their camel-case names."""
        out: dict[str, Any] = {
            "code": self.code.value,
            "reason": self.reason.value,
            "message": self.message,
            "retryable": self.retryable,
            "retryAfter": self.retry_after,
            "callId": self.call_id,
        }
        return out


def _made_again(kind: type[FaztError], args: tuple[Any, ...], state: dict[str, Any]) -> FaztError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class StaleConnectionError(FaztError):
    """A pooled connection that the peer had already closed: no byte of a response came.

    `sent` says whether anything of the request was written; the pipeline sends again once, on a fresh connection,
    when nothing was or when the method is idempotent.
    """

    def __init__(self, *, sent: bool, detail: str | None = None) -> None:
        super().__init__(Reason.CONNECT_FAILED, "the connection was closed before a response came", detail=detail)
        self.sent = sent


class CallerError(BaseException):
    """Carries what the caller's own code raised (a body's iterator, a hook) through the engine, which ends the call.

    No `Exception`, so that nothing on the way takes it for a fault of fazt's; the engine raises `error` in its place.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class OperatorError(Exception):
    """A mistake of, or a fault to be mended by, whoever runs fazt: exit code 1 on the command line.

    Args:
        message: what is wrong, naming the cause.
        hint: the next command to type or the setting to change.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:  # who sees a traceback, as a Python program's author does, is to see it too
            self.add_note(f"hint: {hint}")


class ConfigError(OperatorError):
    """A value given by the operator that cannot be used: a rule's target, an unknown limit, an option out of range."""


class StoreError(OperatorError):
    """A database, key file or directory that cannot be read or written."""


class NotFoundError(OperatorError):
    """Something named on the command line or by the admin API that does not exist."""


class DeployError(OperatorError):
    """A directory that cannot be deployed; nothing was switched."""
