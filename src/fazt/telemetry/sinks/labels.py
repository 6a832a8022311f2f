"""Labels of metrics: their number is bounded, whatever hosts and methods a program comes up with."""

from __future__ import annotations

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"})
OTHER = "other"


class Bounded:
    """Lets the first so many values through and calls every later one `other`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[tuple[str, ...]] = set()

    def fit(self, *values: str) -> tuple[str, ...]:
        """Return the values, or as many times `other` when they are new and there is no room."""
        if values in self._seen:
            return values
        if len(self._seen) >= self._limit:
            return (OTHER,) * len(values)
        self._seen.add(values)
        return values
