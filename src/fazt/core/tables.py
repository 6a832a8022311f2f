"""Read tables of a configuration: each key is asked for by name, and one that nobody asked for is an error.

The values come from TOML, or from a dict that a program made; either way an error names the key from the top.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fazt.errors import ConfigError


def check_number(value: object, name: str, *, least: float = 0.0, above: float | None = None) -> float:
    """Return a finite number within its range.

    Args:
        value: what was given.
        name: what it is called, for the error.
        least: the smallest that is taken.
        above: it must be more than this.

    Raises:
        ConfigError: it is none, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} must be a finite number")
    if above is not None and number <= above:
        raise ConfigError(f"{name} must be above {above:g}, not {value!r}")
    if number < least:
        raise ConfigError(f"{name} must be {least:g} or more, not {value!r}")
    return number


def check_whole(value: object, name: str, *, least: int = 0) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ConfigError: it is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ConfigError(f"{name} must be {least} or more, not {value!r}")
    return value


def check_statuses(value: object, name: str) -> frozenset[int]:
    """Return HTTP status codes given as a list or a set.

    Raises:
        ConfigError: it is something else, or holds what is no status.
    """
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise ConfigError(f"{name} must be a list of status codes")
    found = frozenset(value)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int) or not 100 <= one <= 599:
            raise ConfigError(f"{name}: {one!r} is no HTTP status")
    return found


class Table:
    """One table, read key by key.

    Args:
        values: the table.
        where: its name from the top, for errors ("traffic.hosts.api.example.com").

    Raises:
        ConfigError: `values` is no table.
    """

    __slots__ = ("_asked", "_values", "where")

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where} must be a table, not {values!r}")
        self._values: Mapping[Any, Any] = values
        self._asked: dict[str, None] = {}
        self.where = where

    def __contains__(self, key: str) -> bool:
        self._asked[key] = None
        return self._values.get(key) is not None

    def name(self, key: str) -> str:
        """Return what a key is called from the top."""
        return f"{self.where}.{key}" if self.where else key

    def raw(self, key: str) -> Any:
        """Return a value as it stands, None when it is absent."""
        self._asked[key] = None
        return self._values.get(key)

    def number(self, key: str, default: float, *, least: float = 0.0, above: float | None = None) -> float:
        """Return a finite number."""
        return check_number(self.raw(key), self.name(key), least=least, above=above) if key in self else default

    def whole(self, key: str, default: int, *, least: int = 0) -> int:
        """Return a whole number."""
        return check_whole(self.raw(key), self.name(key), least=least) if key in self else default

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        if key not in self:
            return default
        value = self.raw(key)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.name(key)} must be true or false, not {value!r}")
        return value

    def statuses(self, key: str, default: frozenset[int]) -> frozenset[int]:
        """Return status codes."""
        return check_statuses(self.raw(key), self.name(key)) if key in self else default

    def table(self, key: str) -> Table | None:
        """Return an inner table, None when it is absent."""
        return Table(self.raw(key), self.name(key)) if key in self else None

    def switch(self, key: str) -> Table | bool | None:
        """Return what stands for a feature: true or false, a table that settles its details, None when absent."""
        value = self.raw(key)
        return value if value is None or isinstance(value, bool) else Table(value, self.name(key))

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield every inner table with its key, where the keys are names of the user's own."""
        for key, value in self._values.items():
            if not isinstance(key, str) or not key:
                raise ConfigError(f"{self.where}: {key!r} is no name")
            self._asked[key] = None
            yield key, Table(value, self.name(key))

    def done(self) -> None:
        """Refuse the keys that nobody asked for.

        Raises:
            ConfigError: there is one.
        """
        for key in self._values:
            if key not in self._asked:
                near = difflib.get_close_matches(str(key), self._asked, n=1)
                known = ", ".join(self._asked)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {known}"
                raise ConfigError(f"unknown key {self.name(str(key))!r}", hint=hint)
