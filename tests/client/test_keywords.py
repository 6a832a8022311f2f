"""Arguments are known by name to editors, type checkers and prompts, and are those that the code takes."""

from __future__ import annotations

import inspect
from typing import Any

import httpx2
import pytest

import fazt
import fazt.httpx
from fazt.client.arguments import BYPASSES
from fazt.client.asked import NAMES
from fazt.client.door import setup_of
from fazt.client.keywords import BodyOptions, CallOptions, ClientArguments, Connecting, OneCall

_OF_SETUP = {*inspect.signature(setup_of).parameters} - {"others"}
_HOOKS = {"on_request", "on_response", "on_error"}


def _named(function: Any) -> set[str]:
    return {name for name, kind in inspect.signature(function).parameters.items() if kind.kind is kind.KEYWORD_ONLY}


def test_the_arguments_of_clients_are_httpxs_and_fazts() -> None:
    assert set(Connecting.__annotations__) == _OF_SETUP | NAMES
    theirs = _named(httpx2.Client) - BYPASSES
    assert set(ClientArguments.__annotations__) == _OF_SETUP | NAMES | _HOOKS | theirs


def test_the_options_of_calls_are_httpxs_and_fazts() -> None:
    assert set(CallOptions.__annotations__) == (_named(httpx2.Client.get) - {"self", "url"}) | NAMES
    assert set(BodyOptions.__annotations__) == (_named(httpx2.Client.post) - {"self", "url"}) | NAMES
    assert set(OneCall.__annotations__) == {*BodyOptions.__annotations__, "policy", "app", "max_redirects"}


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        (fazt.Client, ClientArguments),
        (fazt.AsyncClient, ClientArguments),
        (fazt.httpx.Client, ClientArguments),
        (fazt.get_client, ClientArguments),
        (fazt.get_async_client, ClientArguments),
        (fazt.Transport, Connecting),
        (fazt.AsyncTransport, Connecting),
        (fazt.get, OneCall),
        (fazt.stream, OneCall),
    ],
)
def test_a_signature_names_every_argument(what: Any, arguments: Any) -> None:
    assert _named(what) == set(arguments.__annotations__)


def test_a_signature_can_be_read() -> None:
    assert str(inspect.signature(fazt.get)).startswith("(url, *, secret: 'str | None' = ..., ")
    assert [*inspect.signature(fazt.request).parameters][:2] == ["method", "url"]
