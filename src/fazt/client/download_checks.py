"""What a download asks for, and what is checked beside the network: lengths, files that are there, codings, digests."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fazt.client.download_error import DownloadError
from fazt.client.download_plan import Download, Plan
from fazt.core.call import Options, Request
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason

if TYPE_CHECKING:
    from fazt.client.paths import Destination
    from fazt.core.call import Door, Response
    from fazt.core.ranges import Asked
    from fazt.core.retry import RetryPolicy
    from fazt.net.decode import Decoder

_GZIP = (".gz", ".tgz", ".svgz")
_PACKED: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "br": (".br",), "zstd": (".zst", ".tzst")}


def request_for(
    plan: Plan,
    *,
    app: str,
    door: Door,
    asked: Asked | None = None,
    seconds: float | None = None,
    retry: RetryPolicy | None = None,
) -> Request:
    """Return the request of one trip.

    Args:
        plan: what is asked for.
        app: id of the app.
        door: for the record.
        asked: the range that is missing, None for the whole file.
        seconds: that are left, None for no limit.
        retry: when the engine tries again before an answer comes.
    """
    return Request(
        url=plan.url,
        headers=plan.fields if asked is None else (*plan.fields, *asked.fields()),
        timeout_ms=None if seconds is None else seconds * 1000.0,
        auth=plan.secret,
        app=app,
        door=door,
        options=Options(
            max_response=plan.max_bytes,
            cache=plan.cache,
            retry=retry,
            service=plan.service,
            role=plan.role,
            stream=True,
        ),
    )


def already_there(plan: Plan, path: Path) -> Download | None:
    """Return the file that is there and must not be replaced, if it is the right one; None where there is none.

    Raises:
        DownloadError: `file_exists` when it is another, or nobody knows.
    """
    if not os.path.lexists(path):
        return None
    if plan.sha256 is not None and path.is_file() and not path.is_symlink():
        size, digest = digest_file(path)
        if digest == plan.sha256:
            return Download(path, size, digest, False, 0, plan.url)
    raise DownloadError(Reason.FILE_EXISTS, "the destination exists, and is kept")


def check_length(plan: Plan, length: int | None) -> None:
    """Refuse a length that cannot be right before anything is read.

    Raises:
        DownloadError: `length`, `response_body`.
    """
    if length is None:
        return
    if plan.expected_length is not None and length != plan.expected_length:
        raise DownloadError(Reason.LENGTH, f"the file has {length} bytes, not {plan.expected_length}")
    if plan.max_bytes is not None and length > plan.max_bytes:
        raise DownloadError(Reason.RESPONSE_BODY, f"the file has {length} bytes, more than {plan.max_bytes}")


def check_unchanged(destination: Destination | None) -> None:
    """Make sure that a 304 speaks of a file that is there.

    Raises:
        DownloadError: `status`.
    """
    assert destination is not None
    path = destination.path
    if path.is_symlink() or not path.is_file():
        raise DownloadError(Reason.STATUS, "the server says that nothing changed, but there is no file", status=304)


def decoder_for(response: Response, path: str, *, max_bytes: int | None) -> Decoder | None:
    """Return what decodes an answer that is encoded although that was not asked for; None for one that is as it is.

    A `.tar.gz` that is declared as "gzip" is meant as it is: servers derive the coding from the name.

    Args:
        response: whose body it is.
        path: what the file will be called.
        max_bytes: most bytes that may come out.

    Raises:
        FaztError: `decode` for what cannot be decoded here: it must not be saved as if it were the file.
    """
    codings = response.content_coding
    if not codings:
        return None
    names = (response.url.path.lower(), path.lower())
    if any(name.endswith(_PACKED.get(codings.strip().lower(), ())) for name in names):
        return None
    from fazt.net.decode import decoder

    return decoder(codings, max_bytes=max_bytes, strict=True)


def fits(size: int, total: int | None) -> bool:
    """Tell whether so many bytes can be the beginning of a file of this length."""
    return size > 0 and (total is None or size <= total)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a text in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path, *, hashed: bool = True) -> tuple[int, str | None]:
    """Return length and SHA-256 of a file, the latter only if it is wanted.

    Raises:
        DownloadError: `file_write` when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if hashed else None
            return os.fstat(file.fileno()).st_size, digest
    except OSError as fault:
        raise DownloadError.of_os(fault, Reason.FILE_WRITE, "read the file that is there") from fault


def redacted(url: str) -> str:
    """Return a URL without its query, whatever else is wrong with it."""
    try:
        return parse_url(url).redacted()
    except FaztError:
        bare = re.split(r"[?#]", url, maxsplit=1)[0]
        return re.sub(r"//[^/]*@", "//", bare)[:2048]
