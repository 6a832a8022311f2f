"""Which process this is: what a fork inherits is the parent's, and the child neither speaks over it nor closes it."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something that a forked child must begin anew before anybody uses it there."""

    def start_anew(self) -> None:
        """Leave what the parent made to the parent; locks too, which a thread that is not here may hold."""


_forks = 0
_abandoned: list[object] = []  # a child keeps what it inherited, so that nothing of it is closed by collection
_renewed: WeakSet[Renewable] = WeakSet()


def _after_fork() -> None:
    global _forks
    _forks += 1
    for one in list(_renewed):
        one.start_anew()


os.register_at_fork(after_in_child=_after_fork)


def forks() -> int:
    """Return how many forks lie between this process and the one that imported this module."""
    return _forks


def renew(one: Renewable) -> None:
    """Begin `one` anew in every child that is forked from now on, while it lives."""
    _renewed.add(one)


def abandon(inherited: object) -> None:
    """Keep what belongs to the parent for as long as this process lives, and leave it alone."""
    _abandoned.append(inherited)
