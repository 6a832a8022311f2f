"""`fazt.get(…)` and its like: httpx2's functions of the same names, under a policy.

Connections are shared among all calls of one policy in the process; cookies are not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Unpack

from fazt.client.arguments import BYPASSES, refuse_bypasses, refuse_environment, tls_config
from fazt.client.httpx2 import Client
from fazt.client.keywords import OneCall, accepts
from fazt.client.registry import backend_for
from fazt.errors import ConfigError

if TYPE_CHECKING:
    import httpx2

    from fazt.client.policies import Policy

_OF_CLIENT = ("auth", "cookies", "timeout", "follow_redirects", "max_redirects")
_OF_CONNECTIONS = frozenset({"cert", "http1", "http2", "limits", "trust_env", "verify"})
"""What httpx's functions take for the connections of one call; here these are shared by the calls of a policy."""


def _client(options: dict[str, Any]) -> Client:
    policy: Policy | None = options.pop("policy", None)
    app: str | None = options.pop("app", None)
    refuse_bypasses({name: options.pop(name) for name in BYPASSES & options.keys()})
    refuse_environment(options.pop("trust_env", False))
    if options.get("verify") is False:
        tls_config(False, None, policy)  # says what to do instead
    for name in _OF_CONNECTIONS & options.keys():
        raise ConfigError(f"{name}= belongs to connections, which calls share here: fazt.Client({name}=…).get(…)")
    own = {name: options.pop(name) for name in _OF_CLIENT if name in options}
    own["_backend"] = backend_for(policy, app)
    return Client(**own)


@accepts(OneCall, "method", "url")
def request(method: str, url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a request and read its answer.

    Args:
        method: the method.
        url: absolute, http or https.
        policy: what is allowed; the data directory's rules by default.
        app: name or id of the app of the data directory that the call is for.
        options: httpx2's own (`params`, `headers`, `cookies`, `content`, `data`, `files`, `json`, `auth`, `timeout`,
            `follow_redirects`, `extensions`), `max_redirects`, and fazt's (`secret`, `deadline`, `max_bytes`,
            `cache`, `retry`, `service`, `role`).

    Raises:
        FaztError: refused or failed; it is httpx2's matching exception too.
        ConfigError: the policy cannot be used; an argument that would go around it.
    """
    given: Any = options
    response: httpx2.Response = _client(given).request(method, url, **given)
    return response


@accepts(OneCall, "method", "url")
@contextlib.contextmanager
def stream(method: str, url: str | httpx2.URL, **options: Unpack[OneCall]) -> Iterator[httpx2.Response]:
    """Send a request and give its answer when the head has come; arguments and errors as `request`."""
    given: Any = options
    with _client(given).stream(method, url, **given) as response:
        yield response


@accepts(OneCall, "url")
def get(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a GET request; options as `request`."""
    return request("GET", url, **options)


@accepts(OneCall, "url")
def options(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send an OPTIONS request; options as `request`."""
    return request("OPTIONS", url, **options)


@accepts(OneCall, "url")
def head(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a HEAD request; options as `request`."""
    return request("HEAD", url, **options)


@accepts(OneCall, "url")
def post(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a POST request; options as `request`."""
    return request("POST", url, **options)


@accepts(OneCall, "url")
def put(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a PUT request; options as `request`."""
    return request("PUT", url, **options)


@accepts(OneCall, "url")
def patch(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a PATCH request; options as `request`."""
    return request("PATCH", url, **options)


@accepts(OneCall, "url")
def delete(url: str | httpx2.URL, **options: Unpack[OneCall]) -> httpx2.Response:
    """Send a DELETE request; options as `request`."""
    return request("DELETE", url, **options)
