"""What stands beside a part: of which version of which file its bytes are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from fazt.core.ranges import Validator

VERSION: Final = 1
"""Of the form; another one is not read."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Of which version of which file the bytes of a part are.

    Args:
        url: what was asked for, without its query; for people.
        key: digest of the whole URL.
        place: digest of where redirects led, without the query: signatures change, paths don't.
        etag, modified: the validator; one of both is set.
        total: length of the file, None when it is not known.
    """

    url: str
    key: str
    place: str
    etag: str
    modified: str
    total: int | None

    @property
    def validator(self) -> Validator:
        """What a range is asked for with."""
        return Validator(self.etag, self.modified)

    def written(self) -> bytes:
        """Return what the sidecar holds."""
        return json.dumps({"version": VERSION, **asdict(self)}).encode()


def read_origin(data: bytes) -> Origin | None:
    """Read a sidecar; None for one that cannot be trusted in every field."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or found.pop("version", None) != VERSION:
            return None
        made = Origin(**found)
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (made.url, made.key, made.place, made.etag, made.modified)
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not made.validator.text:
        return None
    if made.total is not None and (type(made.total) is not int or made.total < 0):
        return None
    return made
