"""The lean functions: one call, fazt's own small response, nothing of httpx.

They share connections among all calls of one policy in a process (`fetch`) or on an event loop (`afetch`).
"""

from __future__ import annotations

import json as json_of
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlencode

from fazt.client.asked import DEFAULT_TIMEOUTS, NOTHING, Asking, Settled, Settler, Timeouts, asked
from fazt.client.incoming import unpack
from fazt.client.registry import async_backend_for, backend_for
from fazt.core.call import Earlier, Fields
from fazt.core.call import Request as Call
from fazt.core.call import Response as Answer
from fazt.core.profiles import CLIENT_REDIRECTS
from fazt.errors import FaztError, Reason
from fazt.net.decode import accept_encoding

if TYPE_CHECKING:
    from fazt.client.policies import Policy

_settler = Settler(None)
_CODINGS = accept_encoding()
_JSON: Fields = (("Content-Type", "application/json"),)
_WORDS = {None: "", True: "true", False: "false"}
_FORM: Fields = (("Content-Type", "application/x-www-form-urlencoded"),)

HeaderArgument = Mapping[str, str] | Sequence[tuple[str, str]]


class Headers(Mapping[str, str]):
    """Fields of an answer by name, in any case; of a name that stands more than once the first."""

    __slots__ = ("_first", "fields")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        """All of them in order, names in lower case."""
        self._first: dict[str, str] = dict(reversed(fields))

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.fields))

    def __len__(self) -> int:
        return len(self._first)

    def all(self, name: str) -> list[str]:
        """Return the values of every field of this name, in order."""
        lower = name.lower()
        return [value for key, value in self.fields if key == lower]

    def __repr__(self) -> str:  # a server may send back what it was given
        return f"<Headers {len(self.fields)}>"


class Response:
    """What a call was answered with; the body is whole, decoded and within its limits.

    Attributes:
        status: the code.
        content: the body.
        call_id: what the log calls the call.
        cache: "hit", "revalidated", "miss", "stale", "bypass", or "" where there is no cache.
        rule: id of the rule that allowed it.
    """

    __slots__ = ("_answer", "_headers", "call_id", "content", "status")

    def __init__(self, answer: Answer, content: bytes) -> None:
        self._answer = answer
        self._headers: Headers | None = None
        self.status = answer.status
        self.content = content
        self.call_id = answer.call_id

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status <= 299

    @property
    def headers(self) -> Headers:
        """The fields of the answer."""
        if self._headers is None:
            self._headers = Headers(self._answer.headers)
        return self._headers

    @property
    def headers_all(self) -> dict[str, list[str]]:
        """The values of each field by its name in lower case."""
        found: dict[str, list[str]] = {}
        for name, value in self._answer.headers:
            found.setdefault(name, []).append(value)
        return found

    @property
    def url(self) -> str:
        """The URL that answered, after redirects."""
        return str(self._answer.url)

    @property
    def method(self) -> str:
        """The method of the request that was answered."""
        return self._answer.method

    @property
    def version(self) -> str:
        """The protocol's name."""
        return self._answer.version

    @property
    def cache(self) -> str:
        """What the cache did."""
        return self._answer.cache

    @property
    def rule(self) -> str | None:
        """Id of the rule that allowed the call."""
        return self._answer.rule

    @property
    def redirected(self) -> bool:
        """Whether a redirect was followed."""
        return bool(self._answer.history)

    @property
    def history(self) -> tuple[Earlier, ...]:
        """The requests that redirects answered, with those answers."""
        return self._answer.history

    @property
    def encoding(self) -> str:
        """The character coding that the answer names, "utf-8" where it names none that is known."""
        for part in self.headers.get("content-type", "").split(";")[1:]:
            name, _, value = part.partition("=")
            if name.strip().lower() == "charset":
                coding = value.strip().strip("\"'")
                try:
                    "".encode(coding)
                except LookupError:
                    break
                return coding
        return "utf-8"

    @property
    def text(self) -> str:
        """The body as text; what is not valid in its coding becomes U+FFFD."""
        return self.content.decode(self.encoding, "replace")

    def json(self) -> Any:
        """Return the body read as JSON.

        Raises:
            ValueError: it is none.
        """
        return json_of.loads(self.content)

    def raise_for_status(self) -> Response:
        """Return this response if its status is below 400.

        Raises:
            FaztError: `status`, with the response as `response`.
        """
        if self.status < 400:
            return self
        error = FaztError(Reason.STATUS, f"the server answered {self.status}", call_id=self.call_id)
        error.response = self  # type: ignore[attr-defined]
        raise error

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.call_id} {len(self.content)}B>"


def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderArgument | None = None,
    content: bytes | str | None = None,
    json: Any = None,
    data: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
    timeout: float | Timeouts | None = DEFAULT_TIMEOUTS,
    follow_redirects: bool = False,
    max_redirects: int = CLIENT_REDIRECTS,
    policy: Policy | None = None,
    app: str | None = None,
    **asking: Unpack[Asking],
) -> Response:
    """Make one call and return its answer, read to its end.

    Args:
        url: absolute, http or https.
        method: the method.
        headers: fields to send.
        content, json, data: the body: bytes or text, a value to send as JSON, or the fields of a form.
        params: added to the query.
        timeout: seconds that each single wait may take, or (connect, read, write, pool); None for no limits.
        follow_redirects: whether redirects are followed, each judged like the first request.
        max_redirects: how many.
        policy: what is allowed; the data directory's rules by default.
        app: name or id of the app of the data directory that the call is for.
        asking: `secret`, `deadline` (seconds, 60 unless set), `max_bytes`, `cache`, `retry`, `service`, `role`.

    Raises:
        FaztError: refused or failed.
        ConfigError: the policy cannot be used.
    """
    backend = backend_for(policy, app)
    settled = _settled(asking, timeout, max_redirects if follow_redirects else None)
    call = _call(url, method, headers, content, json, data, params, settled, backend.policy.app_id)
    answer = backend.engine.call(call, profile=backend.profile, finish=partial(unpack, settled))
    return Response(answer, answer.body if answer.decoded is None else answer.decoded)


async def afetch(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderArgument | None = None,
    content: bytes | str | None = None,
    json: Any = None,
    data: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
    timeout: float | Timeouts | None = DEFAULT_TIMEOUTS,  # noqa: ASYNC109 - of single waits, as httpx has it
    follow_redirects: bool = False,
    max_redirects: int = CLIENT_REDIRECTS,
    policy: Policy | None = None,
    app: str | None = None,
    **asking: Unpack[Asking],
) -> Response:
    """Make one call on the running event loop; arguments and errors as `fetch`."""
    backend = async_backend_for(policy, app)
    settled = _settled(asking, timeout, max_redirects if follow_redirects else None)
    call = _call(url, method, headers, content, json, data, params, settled, backend.policy.app_id)
    answer = await backend.engine.call(call, profile=backend.profile, finish=partial(unpack, settled))
    return Response(answer, answer.body if answer.decoded is None else answer.decoded)


def _settled(asking: Mapping[str, Any], timeout: float | Timeouts | None, max_redirects: int | None) -> Settled:
    wanted = asked(asking, NOTHING) if asking else NOTHING
    if timeout is None or isinstance(timeout, int | float):
        timeout = (timeout, timeout, timeout, timeout)
    elif not (isinstance(timeout, tuple) and len(timeout) == 4):
        raise TypeError("timeout must be a number of seconds, None, or (connect, read, write, pool)")
    return _settler(wanted, timeout, coding=_CODINGS, stream=False, max_redirects=max_redirects)


def _call(
    url: str,
    method: str,
    headers: HeaderArgument | None,
    content: bytes | str | None,
    json: Any,
    data: Mapping[str, Any] | None,
    params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None,
    settled: Settled,
    app: str,
) -> Call:
    fields: Fields = ()
    if headers is not None:
        fields = tuple(headers.items()) if isinstance(headers, Mapping) else tuple(headers)
        for name, value in fields:
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError("names and values of header fields must be strings")
    body: bytes | None = None
    if content is not None or json is not None or data is not None:
        body, default = _body(content, json, data)
        if default and not any(name.lower() == "content-type" for name, _ in fields):
            fields = (*fields, *default)
    if params:
        bare, mark, fragment = url.partition("#")
        url = f"{bare}{'&' if '?' in bare else '?'}{_form(params)}{mark}{fragment}"
    return Call(
        url,
        method,
        fields,
        body,
        settled.timeout_ms,
        settled.secret,
        app,
        "client",
        None,
        0,
        settled.options,
    )


def _form(given: Any) -> str:
    """Return names and values as a query or a form has them; what is no text is written as httpx does."""
    if isinstance(given, str | bytes):
        raise TypeError("params= and data= take names and values; a body that is ready is content=")
    pairs: list[tuple[str, Any]] = []
    for name, value in given.items() if isinstance(given, Mapping) else given:
        for one in value if isinstance(value, list | tuple) else (value,):
            pairs.append((name, _WORDS[one] if one is None or isinstance(one, bool) else one))
    return urlencode(pairs)


def _body(content: bytes | str | None, json: Any, data: Mapping[str, Any] | None) -> tuple[bytes, Fields]:
    """Return the body and the field that names its type.

    Raises:
        TypeError: more than one was given, or content of another type.
    """
    if sum(given is not None for given in (content, json, data)) > 1:
        raise TypeError("give one of content=, json= and data=")
    if json is not None:
        text = json_of.dumps(json, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode(), _JSON
    if data is not None:
        return _form(data).encode(), _FORM
    if isinstance(content, str):
        return content.encode(), ()
    if not isinstance(content, bytes):
        raise TypeError(f"content= takes bytes or a string, not {type(content).__name__}")
    return content, ()
