"""Tell a name that one owner holds from a suffix under which strangers register names."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

SAFE_SUFFIXES = frozenset({"googleapis.com"})
"""Listed as shared, yet every name below it is one company's API, and granting them together is what people need."""


class SuffixKind(StrEnum):
    """Who may hold the names directly below a domain."""

    OWN = "own"
    SHARED = "shared"
    REGISTRY = "registry"


def suffix_kind(domain: str) -> SuffixKind:
    """Return who may hold names below `domain`.

    `REGISTRY` is a single label or a suffix of the list's ICANN section (anybody registers there); `SHARED` is one of
    its private section (customers of one service: github.io, s3.amazonaws.com).

    Args:
        domain: a canonical host name.

    Source: publicsuffix.org/list, in the copy that the publicsuffixlist package carries.
    """
    if "." not in domain or _suffix_list(icann_only=True).is_public(domain):
        return SuffixKind.REGISTRY
    if domain not in SAFE_SUFFIXES and _suffix_list(icann_only=False).is_public(domain):
        return SuffixKind.SHARED
    return SuffixKind.OWN


@lru_cache(maxsize=2)
def _suffix_list(*, icann_only: bool) -> PublicSuffixList:
    # Takes a tenth of a second and is needed only when a wildcard is granted.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=icann_only)
