"""Read, check and change limits: values, validation, the command line's help and the schema endpoint.

Everything is derived from the fields in `core.limit_table`, so a limit is described in one place.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import cast

from fazt.core.limit_table import (
    GROUPS,
    HARD_MAX_RESPONSE,
    Capacity,
    Hardware,
    LimitInfo,
    Limits,
    Machine,
    Net,
    Runtime,
    Storage,
)
from fazt.errors import ConfigError

__all__ = [
    "HARD_MAX_RESPONSE",
    "Capacity",
    "Hardware",
    "LimitInfo",
    "Limits",
    "Net",
    "Runtime",
    "Storage",
    "as_dict",
    "clamp_override",
    "defaults",
    "get",
    "info",
    "paths",
    "schema",
    "validate",
    "validate_override",
    "with_values",
]

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}")
_INFO: dict[str, LimitInfo] = {
    f"{group}.{item.name}": item.metadata["info"] for group, kind in GROUPS.items() for item in fields(kind)
}


def defaults(*, total_ram: int, available_ram: int, cpu_cores: int) -> Limits:
    """Return the limits of a machine on which nothing was set.

    Args:
        total_ram: memory the process may use, in bytes.
        available_ram: memory free to be used now, in bytes.
        cpu_cores: cores the process may run on.
    """
    machine = Machine(total_ram, available_ram, max(1, cpu_cores))

    def value(default: int | Callable[[Machine], int]) -> int:
        return default if isinstance(default, int) else default(machine)

    groups = {
        group: kind(**{item.name: value(item.metadata["default"]) for item in fields(kind)})
        for group, kind in GROUPS.items()
    }
    return Limits(**groups)


def paths() -> tuple[str, ...]:
    """Return every limit as `group.name`, in the order of the schema."""
    return tuple(_INFO)


def info(path: str) -> LimitInfo:
    """Return what is known of one limit.

    Args:
        path: `group.name`.

    Raises:
        ConfigError: there is no such limit.
    """
    found = _INFO.get(path)
    if found is None:
        import difflib  # only a mistyped name needs it

        near = difflib.get_close_matches(path, _INFO, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "`fazt limits show` lists every limit"
        raise ConfigError(f"there is no limit named {path!r}", hint=hint)
    return found


def get(limits: Limits, path: str) -> int:
    """Return the value of one limit.

    Raises:
        ConfigError: there is no such limit.
    """
    info(path)
    group, name = path.split(".")
    return cast("int", getattr(getattr(limits, group), name))


def validate(path: str, value: object) -> int:
    """Return `value` as an integer that the limit may take.

    Args:
        path: `group.name`.
        value: an integer, or decimal digits as typed on a command line; in the unit of the limit.

    Raises:
        ConfigError: unknown or read-only limit, not a whole number, or out of range.
    """
    about = info(path)
    if about.read_only:
        raise ConfigError(
            f"{path} is measured or estimated by fazt and cannot be set", hint="`fazt limits schema` marks the others"
        )
    low, high = cast("int", about.low), cast("int", about.high)  # every settable limit has a range: tested
    unit = f" {about.unit}" if about.unit else ""
    number = _whole_number(value)
    if number is None:
        raise ConfigError(
            f"{path} takes a whole number from {low} to {high}{unit}", hint=f"fazt limits set {path} {low}"
        )
    if not low <= number <= high:
        near = max(low, min(number, high))
        raise ConfigError(
            f"{path} takes {low} to {high}{unit}, not {number}", hint=f"nearest: fazt limits set {path} {near}"
        )
    return number


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return None


def validate_override(base: Limits, path: str, value: object) -> int:
    """Return `value` as an integer that one app may be given for a limit.

    Args:
        base: the operator's limits, which no app can exceed.
        path: `group.name`.
        value: as for `validate`.

    Raises:
        ConfigError: as `validate`; or the limit belongs to the whole process; or the value is wider than the
            operator's own.
    """
    number = validate(path, value)
    about = info(path)
    if not about.per_app:
        raise ConfigError(f"{path} holds for the whole process and cannot differ between apps", hint="leave --app out")
    ceiling = get(base, path)
    if _narrower(base, path, number) != number:
        shown = "off" if about.zero_lifts and number == 0 else str(number)
        raise ConfigError(
            f"an app's {path} cannot be {shown}: the limit for everybody is {ceiling}",
            hint=f"raise it first: fazt limits set {path} {number}",
        )
    return number


def _narrower(base: Limits, path: str, number: int) -> int:
    """Return `number`, or the operator's value where that is the narrower one."""
    ceiling = get(base, path)
    if info(path).zero_lifts:
        return min(number or ceiling, ceiling or number)
    if path == "net.rate_burst" and base.net.rate_limit == 0:
        return number  # without a rate the operator's burst bounds nothing
    return min(number, ceiling)


def with_values(limits: Limits, values: Mapping[str, object]) -> Limits:
    """Return limits in which some values are replaced.

    Args:
        limits: what holds for the rest.
        values: `group.name` to value, each as for `validate`.

    Raises:
        ConfigError: as `validate`.
    """
    return _replaced(limits, {path: validate(path, value) for path, value in values.items()})


def clamp_override(base: Limits, values: Mapping[str, object]) -> Limits:
    """Return the limits of one app: the operator's, narrowed by the app's own values.

    A stored value that is wider than the operator's present one (because the operator's was lowered since) counts
    as the operator's. Values for limits of the whole process have no effect.

    Args:
        base: the operator's limits.
        values: the app's own, `group.name` to value.

    Raises:
        ConfigError: as `validate`.
    """
    numbers = {path: validate(path, value) for path, value in values.items() if info(path).per_app}
    return _replaced(base, {path: _narrower(base, path, number) for path, number in numbers.items()})


def _replaced(limits: Limits, numbers: Mapping[str, int]) -> Limits:
    by_group: dict[str, dict[str, int]] = {}
    for path, number in numbers.items():
        group, name = path.split(".")
        by_group.setdefault(group, {})[name] = number
    groups = {group: replace(getattr(limits, group), **changed) for group, changed in by_group.items()}
    return replace(limits, **groups)


def as_dict(limits: Limits) -> dict[str, dict[str, int]]:
    """Return the values as nested dictionaries, group to name to value."""
    return {
        group: {item.name: getattr(getattr(limits, group), item.name) for item in fields(kind)}
        for group, kind in GROUPS.items()
    }


def schema() -> dict[str, dict[str, dict[str, str | int | bool]]]:
    """Return what a form needs to know of every limit, nested as the values are.

    Each entry has `label`, `desc` and `read_only`; `unit`, `min` and `max` where there is one. The caller may change
    what it gets.
    """
    return copy.deepcopy(_SCHEMA)


def _described(about: LimitInfo) -> dict[str, str | int | bool]:
    entry: dict[str, str | int | bool] = {"label": about.label, "desc": about.desc}
    if about.unit:
        entry["unit"] = about.unit
    if about.low is not None and about.high is not None:
        entry["min"] = about.low
        entry["max"] = about.high
    entry["read_only"] = about.read_only
    return entry


_SCHEMA = {
    group: {item.name: _described(item.metadata["info"]) for item in fields(kind)} for group, kind in GROUPS.items()
}
