"""Callbacks of the client's user: one when a request begins, and exactly one when it ended."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from fazt.errors import ConfigError

_logger = logging.getLogger("fazt.telemetry")
_QUIET = 60.0

Hook = Callable[[Any], Any]
Hookish = Hook | Sequence[Hook] | None


class Hooks:
    """The callbacks of one client; false when there is none.

    A hook that raises is logged (its class, not its text) and the request goes on; only what is no `Exception`
    (KeyboardInterrupt, a cancelled task) passes through.

    Args:
        on_request: called with the request before anything is sent.
        on_response: called with the response when its head is there.
        on_error: called with the exception when there is no response.

    Raises:
        ConfigError: one of them cannot be called.
    """

    __slots__ = ("_complained", "on_error", "on_request", "on_response")

    def __init__(self, on_request: Hookish = None, on_response: Hookish = None, on_error: Hookish = None) -> None:
        self.on_request = _hooks("on_request", on_request)
        self.on_response = _hooks("on_response", on_response)
        self.on_error = _hooks("on_error", on_error)
        self._complained = -_QUIET

    def __bool__(self) -> bool:
        return bool(self.on_request or self.on_response or self.on_error)

    def check_sync(self) -> None:
        """Refuse coroutine functions, which a client without an event loop cannot wait for.

        Raises:
            ConfigError: one of the hooks is a coroutine function.
        """
        for name in ("on_request", "on_response", "on_error"):
            if any(_is_async(hook) for hook in getattr(self, name)):
                raise ConfigError(
                    f"{name} is a coroutine function, and this client is synchronous", hint="use a plain function"
                )

    def begin(self) -> HookRun:
        """Return the guard of one request."""
        return HookRun(self)

    def _failed(self, fault: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= _QUIET:
            self._complained = now
            _logger.warning("a hook raised %s; the request goes on", type(fault).__name__)

    def _call(self, hooks: tuple[Hook, ...], subject: object) -> None:
        for hook in hooks:
            try:
                result = hook(subject)
                if inspect.iscoroutine(result):
                    result.close()  # it would never run, and Python would complain about it later
                    raise TypeError("a hook of a synchronous client returned a coroutine")
            except Exception as fault:  # noqa: BLE001 - the user's code; the request is none of its business
                self._failed(fault)

    async def _acall(self, hooks: tuple[Hook, ...], subject: object) -> None:
        for hook in hooks:
            try:
                result = hook(subject)
                if inspect.isawaitable(result):
                    await result
            except Exception as fault:  # noqa: BLE001 - as above
                self._failed(fault)


class HookRun:
    """The hooks of one request. The first of response and error counts; whatever is told later is ignored."""

    __slots__ = ("_ended", "_hooks")

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether a response or an error was told."""
        return self._ended

    def request(self, request: object) -> None:
        """Tell that a request begins."""
        self._hooks._call(self._hooks.on_request, request)

    def response(self, response: object) -> None:
        """Tell that a response is there."""
        if not self._ended:
            self._ended = True
            self._hooks._call(self._hooks.on_response, response)

    def error(self, error: BaseException) -> None:
        """Tell that there is no response."""
        if not self._ended:
            self._ended = True
            self._hooks._call(self._hooks.on_error, error)

    async def arequest(self, request: object) -> None:
        """Tell that a request begins, and wait for hooks that are coroutine functions."""
        await self._hooks._acall(self._hooks.on_request, request)

    async def aresponse(self, response: object) -> None:
        """Tell that a response is there, and wait."""
        if not self._ended:
            self._ended = True
            await self._hooks._acall(self._hooks.on_response, response)

    async def aerror(self, error: BaseException) -> None:
        """Tell that there is no response, and wait."""
        if not self._ended:
            self._ended = True
            await self._hooks._acall(self._hooks.on_error, error)


def _hooks(name: str, given: Hookish) -> tuple[Hook, ...]:
    if given is None:
        return ()
    found = (given,) if callable(given) else given
    if not isinstance(found, list | tuple) or not all(callable(hook) for hook in found):
        raise ConfigError(f"{name} takes a function or a list of functions")
    return tuple(found)


def _is_async(hook: Hook) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004
