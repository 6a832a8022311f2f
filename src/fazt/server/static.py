"""Files of an app over HTTP: which file a path means, and the fields that go with it (spec B.11)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fazt.server.answers import RefusalError
from fazt.server.paths import SitePath

TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "css": "text/css; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "eot": "application/vnd.ms-fontobject",
    "gif": "image/gif",
    "gz": "application/gzip",
    "htm": "text/html; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/vnd.microsoft.icon",
    "ics": "text/calendar; charset=utf-8",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "jsonld": "application/ld+json; charset=utf-8",
    "map": "application/json; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml; charset=utf-8",
    "tar": "application/x-tar",
    "ttf": "font/ttf",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json; charset=utf-8",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xml": "application/xml; charset=utf-8",
    "zip": "application/zip",
}
"""Media type by extension; a table of our own, so that an answer does not depend on the machine's."""

_HASHED = re.compile(r"assets/(?:.+/)?[^/]+-[^/]*\.[^/]+")
_QUERY = re.compile(rb"[\x21-\x7e]+")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a deployment.

    Args:
        path: relative to the app's root.
        size: bytes.
        sha256: of the content, in hex.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be sent, and the fields that go with it. `fresh`: the client has it already (304)."""

    entry: FileEntry
    headers: tuple[tuple[str, str], ...]
    fresh: bool


Lookup = Callable[[str], Awaitable[FileEntry | None]]


async def find(
    path: SitePath, lookup: Lookup, *, spa: bool, prefix: str = "", query: bytes = b"", if_none_match: str | None = None
) -> Found:
    """Find the file a path means.

    `/` is `index.html`; a slash at the end is redirected away; then the exact file, else, where the last segment has
    no extension, `<path>/index.html`, else `index.html` of a single-page app, unless the path ends like an asset: a
    missing script must not be answered with a page.

    Args:
        path: the canonical path inside the app.
        lookup: finds an entry by its exact path.
        spa: whether the app is a single-page app.
        prefix: what stands before the path in the client's URL.
        query: carried along by a redirect.
        if_none_match: the field of that name.

    Raises:
        RefusalError: 404, or 301 to the path without its slash.
    """
    name = path.file_name
    if name is None:
        raise _missing()
    if (path.slash and name) or (prefix and not name and not path.slash):
        # one slash and a segment: this cannot name another host
        place = f"{prefix}{path.encoded}" + (f"?{query.decode('ascii')}" if _QUERY.fullmatch(query) else "")
        raise RefusalError(301, "MOVED", "moved", headers=(("location", place),))
    entry = await _entry(name, lookup, spa=spa)
    if entry is None:
        raise _missing()
    headers = headers_of(entry)
    return Found(entry, headers, if_none_match is not None and matches(if_none_match, etag(entry)))


async def _entry(name: str, lookup: Lookup, *, spa: bool) -> FileEntry | None:
    if not name:
        return await lookup("index.html")
    entry = await lookup(name)
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    if entry is None and not dot:
        entry = await lookup(f"{name}/index.html")
    if entry is None and spa and extension.lower() not in TYPES:
        entry = await lookup("index.html")
    return entry


def headers_of(entry: FileEntry) -> tuple[tuple[str, str], ...]:
    """Return type, caching and validator of a file."""
    return (
        ("content-type", content_type(entry.path)),
        ("etag", etag(entry)),
        ("cache-control", cache_control(entry.path)),
        ("x-content-type-options", "nosniff"),
    )


def content_type(path: str) -> str:
    """Return the media type of a file by its extension."""
    return TYPES.get(path.rpartition("/")[2].rpartition(".")[2].lower(), "application/octet-stream")


def cache_control(path: str) -> str:
    """Return how long a file may be kept: pages never unasked, hashed assets a year, anything else five minutes."""
    if content_type(path).startswith("text/html"):
        return "no-cache, must-revalidate"
    if _HASHED.fullmatch(path):
        return "public, max-age=31536000, immutable"
    return "public, max-age=300"


def etag(entry: FileEntry) -> str:
    """Return the strong validator: the hash of the content, and of nothing else."""
    return f'"{entry.sha256[:32]}"'


def matches(if_none_match: str, tag: str) -> bool:
    """Answer whether a validator is in an If-None-Match field; comparison is weak (RFC 9110 section 13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(found[1] == tag for found in _ETAG.finditer(if_none_match))


def _missing() -> RefusalError:
    return RefusalError(404, "NOT_FOUND", "not found")
