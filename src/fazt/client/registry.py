"""What a process shares: one backend for each policy, one client for whoever asks for none of its own.

Safe to use from any thread and after a fork: a child makes everything anew, and what its parent made is neither used
nor closed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Unpack

from fazt.client.backend import AsyncBackend, Backend, Setup, SyncBackend
from fazt.client.keywords import ClientArguments, accepts
from fazt.net.forked import abandon

if TYPE_CHECKING:
    from fazt.client.httpx2 import AsyncClient, Client
    from fazt.client.policies import Policy

MAX_POLICIES = 16
"""Policies whose connections are kept at a time; those of the one used longest ago are closed."""

Key = tuple["Policy | None", str | None]


class _Process:
    """All of it, for one process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.backends: OrderedDict[Key, SyncBackend] = OrderedDict()
        self.async_backends: dict[asyncio.AbstractEventLoop, OrderedDict[Key, AsyncBackend]] = {}
        self.client: Client | None = None
        self.async_clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self.bound: dict[str, Any] | None = None
        self.warned: list[dict[str, Any]] = []


_process = _Process()


def _after_fork() -> None:
    global _process
    abandon(_process)
    _process = _Process()


os.register_at_fork(after_in_child=_after_fork)


def _setup(key: Key) -> Setup:
    from fazt.client.door import setup_of

    return setup_of(policy=key[0], app=key[1])


def backend_for(policy: Policy | None, app: str | None) -> SyncBackend:
    """Return the blocking backend that this process shares for a policy.

    Raises:
        ConfigError: the policy cannot be used.
    """
    process, key = _process, (policy, app)
    found = process.backends.get(key)
    if found is not None:
        return found
    with process.lock:
        found = process.backends.get(key)
        if found is None:
            found = process.backends[key] = SyncBackend(_setup(key))
            _drop_surplus(process.backends)
        return found


def async_backend_for(policy: Policy | None, app: str | None) -> AsyncBackend:
    """Return the backend that the calls on the running event loop share for a policy.

    Raises:
        ConfigError: the policy cannot be used.
        RuntimeError: no event loop is running.
    """
    process, key = _process, (policy, app)
    loop = asyncio.get_running_loop()
    kept = process.async_backends.get(loop)
    found = kept.get(key) if kept is not None else None
    if found is not None:
        return found
    with process.lock:
        _forget_closed(process)
        kept = process.async_backends.setdefault(loop, OrderedDict())
        found = kept[key] = AsyncBackend(_setup(key))
        _drop_surplus(kept)
        return found


def _drop_surplus(kept: OrderedDict[Key, Any]) -> None:
    """Keep no connections for policies used long ago; calls that are under way go on."""
    while len(kept) > MAX_POLICIES:
        _, old = kept.popitem(last=False)
        old.retire()


def _forget_closed(process: _Process) -> None:
    """Forget event loops that are over: what they kept went with them."""
    for loop in [loop for loop in process.async_backends if loop.is_closed()]:
        for backend in process.async_backends.pop(loop).values():
            backend.abandon()
    for loop in [loop for loop in process.async_clients if loop.is_closed()]:
        process.async_clients.pop(loop)._intake.backend.abandon()


@accepts(ClientArguments)
def get_client(**arguments: Unpack[ClientArguments]) -> Client:
    """Return the client that this process shares, made at the first call; from any thread.

    Arguments are those of `fazt.Client` and count in the call that makes it. A later call that asks for something else
    warns, once for each change, and returns the client there is; `close_client()` lets the next call make another.

    Raises:
        ConfigError: as `fazt.Client`.
    """
    client = _process.client
    if client is not None and not arguments and not client.is_closed:
        return client
    given: Any = arguments
    return _bound_client(given)


def _bound_client(arguments: dict[str, Any]) -> Client:
    from fazt.client.httpx2 import Client

    process = _process
    with process.lock:
        client = process.client
        if client is None or client.is_closed:
            client = Client(**_with_backend(process, arguments, backend_for))
            process.client = client
            return client
        _check(process, arguments)
        return client


@accepts(ClientArguments)
def get_async_client(**arguments: Unpack[ClientArguments]) -> AsyncClient:
    """Return the client that the code on the running event loop shares, made at the first call.

    Arguments as `get_client`, with which it shares them: what the first of both says holds for the process.

    Raises:
        ConfigError: as `fazt.AsyncClient`.
        RuntimeError: no event loop is running.
    """
    process = _process
    loop = asyncio.get_running_loop()
    client = process.async_clients.get(loop)
    given: Any = arguments
    if client is not None and not arguments and not client.is_closed:
        return client
    from fazt.client.httpx2 import AsyncClient

    with process.lock:
        if client is None or client.is_closed:
            _forget_closed(process)
            client = AsyncClient(**_with_backend(process, given, async_backend_for))
            process.async_clients[loop] = client
            return client
        _check(process, given)
        return client


def _with_backend(process: _Process, arguments: dict[str, Any], backend: Any) -> dict[str, Any]:
    """Return the arguments to make a client with: those that hold for the process, over the backend it shares."""
    if process.bound is None:
        process.bound = arguments
    else:
        _check(process, arguments)
        arguments = process.bound
    if arguments.keys() <= {"policy", "app"}:
        return {"_backend": backend(arguments.get("policy"), arguments.get("app"))}
    return dict(arguments)


def _check(process: _Process, arguments: dict[str, Any]) -> None:
    """Warn, once for each change, of arguments that come too late."""
    if not arguments or arguments == process.bound or arguments in process.warned:
        return
    process.warned.append(arguments)
    changed = sorted(
        name for name in {*arguments, *(process.bound or {})} if arguments.get(name) != (process.bound or {}).get(name)
    )
    warnings.warn(
        f"the shared client is bound already; {', '.join(changed)} changed and is ignored until close_client()",
        RuntimeWarning,
        stacklevel=4,
    )


def close_client() -> None:
    """Close the client that this process shares, and the connections of `fetch()` and its like.

    The next call of `get_client()` makes another one, of arguments of its own. Clients of event loops are closed by
    `await aclose_client()` there.
    """
    process = _process
    with process.lock:
        client, process.client = process.client, None
        backends = list(process.backends.values())
        process.backends.clear()
        process.bound = None
        process.warned.clear()
        _forget_closed(process)
    if client is not None and not client.is_closed:
        client.close()
    for backend in backends:
        backend.close()


async def aclose_client() -> None:
    """Close what the code on the running event loop shares."""
    process = _process
    loop = asyncio.get_running_loop()
    with process.lock:
        client = process.async_clients.pop(loop, None)
        backends = list(process.async_backends.pop(loop, {}).values())
        if process.client is None and not process.async_clients:
            process.bound = None
            process.warned.clear()
    if client is not None and not client.is_closed:
        await client.aclose()
    for backend in backends:
        with contextlib.suppress(RuntimeError):
            await backend.aclose()


def shared() -> list[Backend[Any]]:
    """Return the backends that this process shares, for introspection."""
    process = _process
    with process.lock:
        return [*process.backends.values(), *(b for kept in process.async_backends.values() for b in kept.values())]
