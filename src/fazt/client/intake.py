"""Makes the engine's request of a library's: what clients and transports of both libraries share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fazt.client.asked import Asked, Settled, Settler, asked, timeouts_of
from fazt.client.failures import translate_url
from fazt.client.outgoing import Codings, body_of, fields_of
from fazt.core.call import Fields, Request
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason
from fazt.net.decode import supported

if TYPE_CHECKING:
    from fazt.client.backend import Backend
    from fazt.client.families import Family

EXTENSION = "fazt"
"""The key of request and response extensions."""


class Intake:
    """Turns requests of one library into the engine's.

    Args:
        family: the library.
        backend: engine and policy.
        defaults: what every call asks for that does not say otherwise.
        asynchronous: whether bodies are for an event loop.
    """

    __slots__ = ("_seen", "asynchronous", "backend", "codings", "defaults", "family", "policy", "settler")

    def __init__(self, family: Family, backend: Backend[Any], defaults: Asked, *, asynchronous: bool) -> None:
        self.family = family
        self.backend = backend
        self.policy = backend.policy
        self.defaults = defaults
        self.asynchronous = asynchronous
        self.codings = Codings(supported())
        self.settler = Settler(backend.setup.traffic, backend.setup.sensitive)
        self._seen: tuple[list[Any], Fields, str] = ([], (), "")

    def with_defaults(self, defaults: Asked) -> Intake:
        """Return the same with other defaults."""
        return Intake(self.family, self.backend, defaults, asynchronous=self.asynchronous)

    def refuse_url(self, method: str, text: str) -> FaztError:
        """Return the refusal of a URL that the library cannot read, with the record of the call that it ends."""
        refused = FaztError(Reason.BAD_URL, "the URL cannot be read")
        try:
            parse_url(text)
        except FaztError as found:
            refused = found
        call = Request(text, method, app=self.policy.app_id, door="client")
        self.backend.engine.refuse(call, refused)
        return translate_url(self.family.library, refused)

    def take(
        self,
        request: Any,
        *,
        stream: bool,
        follow: int | None = None,
        total: bool = True,
        between: Any = None,
        jar: str = "",
    ) -> tuple[Request, Settled]:
        """Return the engine's request, and what is asked for.

        Args:
            request: the library's.
            stream: whether the body is handed out as it comes.
            follow: how many redirects to follow, None to follow none.
            total: whether the call ends within a default time when it asks for none.
            between: called at every redirect that is followed.
            jar: id of the jar that the request's cookies are of (`cache.OwnCookies`).

        Raises:
            TypeError, ValueError: an option that is unknown or out of range.
        """
        extensions = request.extensions
        given = extensions.get(EXTENSION)
        wanted = self.defaults if not given else asked(given, self.defaults)
        place = self.family.place_of(request.url)
        headers = request.headers
        items = headers._list
        seen, fields, coding = self._seen
        if items != seen:
            fields, coding = fields_of(headers), self.codings(headers)
            self._seen = (list(items), fields, coding)
        if items and items[0][1] == b"host":
            host = items[0][2]
        else:
            host = next((value for _, key, value in items if key == b"host"), place.netloc)
        settled = self.settler(
            wanted,
            timeouts_of(extensions.get("timeout")),
            coding=coding,
            stream=stream,
            max_redirects=follow,
            total=total,
        )
        body, upload = body_of(request, asynchronous=self.asynchronous)
        call = Request(
            place.text,
            request.method,
            fields,
            body,
            settled.timeout_ms,
            settled.secret,
            self.policy.app_id,
            "client",
            None,
            0,
            settled.options,
            upload,
            between,
            jar,
        )
        if host != place.netloc:
            refused = FaztError(Reason.BAD_OPTION, "Host is made of the URL; a request cannot name another one")
            self.backend.engine.refuse(call, refused)
            raise refused
        return call, settled
