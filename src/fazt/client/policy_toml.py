"""Read a policy from TOML: strict, every refusal names file, line and table.

    name = "crawler"
    ca_file = "corp.pem"                       # or a list; relative to this file

    [[allow]]                                  # the arguments of fazt.Rule; allow = ["api.github.com"] is short for it
    target = "https://intranet.corp:8443"
    addresses = ["10.1.2.0/24"]
    methods = ["GET"]
    paths = ["/v1"]

    [[deny]]
    target = "*.tracker.example"

    [public]                                   # the arguments of fazt.Policy.public; left out: no host without a rule
    rate = "60/minute"

    [resolve]
    "intranet.corp" = ["10.1.2.3"]

    [secrets.GITHUB]                           # the arguments of fazt.Secret, with the value kept elsewhere
    value_env = "GITHUB_TOKEN"                 # or value_file = "github.token"
    domains = ["api.github.com"]

`[traffic]` and `[telemetry]` are handed on, once those who know them have found nothing wrong.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from fazt.client.policy_arguments import NOTHING, Arguments, public_grant
from fazt.client.rules import Rule, Secret
from fazt.errors import ConfigError

_TOP: Final = ("name", "ca_file", "allow", "deny", "public", "resolve", "secrets", "traffic", "telemetry")
_RULE: Final = tuple(item.name for item in fields(Rule))
_PUBLIC: Final = ("ports", "https_only", "methods", "rate", "burst", "max_bytes", "timeout", "cache_ttl")
_SECRET: Final = ("value_env", "value_file", "domains", "kind", "key", "any_domain")
_ELSEWHERE: Final = {
    **dict.fromkeys(("services", "hosts", "roles", "retry", "breaker", "aimd", "concurrency", "wait"), "traffic"),
    **dict.fromkeys(("jsonl", "csv", "sqlite", "otlp", "prometheus"), "telemetry"),
}
"""Keys of tables that are easily written at the top."""
_MAX_SECRET_FILE = 64 * 1024
_HEADER = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
# How a program writes what the file writes otherwise.
_SPELLINGS = (
    (re.compile(r'fazt\.Rule\("([^"]*)", (\w+)=(\[[^\]]*\])\)'), r'target = "\1" with \2 = \3'),
    (re.compile(r'fazt\.Rule\("([^"]*)"\)'), r'target = "\1"'),
    (re.compile(r'secrets=\{"(\w+)": fazt\.Secret\(…, domains=(\[[^\]]*\])\)\}'), r"[secrets.\1] with domains = \2"),
    (re.compile(r"hand them over in secrets="), "name them in [secrets.NAME]"),
    (re.compile(r"entries look like .*"), 'write "api.example.com" = ["192.0.2.1"]'),
    (re.compile(r'resolve=\{"NAME": \["ADDRESS"\]\}'), '[resolve] "NAME" = ["ADDRESS"]'),
    (re.compile(r"\b(\w+)=True\b"), r"\1 = true"),
    (re.compile(r"\b(\w+)=(?=[\[\"0-9N])"), r"\1 = "),
)


@dataclass(frozen=True, slots=True)
class Described:
    """What a policy file says."""

    arguments: Arguments
    traffic: Mapping[str, Any]
    telemetry: Mapping[str, Any]


def described(data: bytes, path: Path, *, files: list[Path], environ: Mapping[str, str] | None = None) -> Described:
    """Read a policy file.

    Args:
        data: its content.
        path: where it is, for errors and relative names.
        files: the files that it names are added here, also when it cannot be used.
        environ: the environment, `os.environ` by default.

    Raises:
        ConfigError: it cannot be used; file, line and table are named.
    """
    try:
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise ConfigError(
            f"{path} cannot be read: {fault}", hint="mend the file; TOML is described at toml.io"
        ) from None
    return _Reader(path, text, values, files, os.environ if environ is None else environ).read()


class _Reader:
    def __init__(
        self, path: Path, text: str, values: Mapping[str, Any], files: list[Path], environ: Mapping[str, str]
    ) -> None:
        self._path = path
        self._text = text
        self._values = values
        self._files = files
        self._environ = environ

    def read(self) -> Described:
        values = self._values
        self._known(values, _TOP, "")
        ca_files = self._ca_files()
        secrets = {name: self._secret(name) for name in self._table("secrets")}
        allow, deny, resolve = self._rules("allow"), self._rules("deny"), self._table("resolve")
        public = None
        if "public" in values:
            table = self._table("public")
            self._known(table, _PUBLIC, "public")
            try:
                public = public_grant(**table)
            except ConfigError as refused:
                raise self._refused(refused, "public") from None
        try:
            arguments = Arguments(allow, deny, public, resolve, ca_files, secrets, values.get("name", self._path.name))
        except ConfigError as refused:
            in_table = "resolve" if refused.message.startswith("resolve") else ""
            key = next((key for key in ("name", "ca_file") if key.split("_")[0] in refused.message.lower()), None)
            raise self._refused(refused, in_table, key=None if in_table else key) from None
        return Described(
            arguments, self._checked("traffic", traffic_fault), self._checked("telemetry", telemetry_fault)
        )

    def _checked(self, name: str, fault: Callable[[Mapping[str, Any]], ConfigError | None]) -> Mapping[str, Any]:
        """Return a table that others read, if they can use it."""
        table = self._table(name)
        refused = fault(table) if table else None
        if refused is None:
            return table
        named = re.search(rf"\b{name}(?:\.[\w.-]*\w)?", refused.message)
        words = (named[0] if named else name).split(".")
        places = ((".".join(words[:cut]), (words[cut:] or (None,))[0]) for cut in range(len(words), 0, -1))
        lines = (_line_of(self._text, header, 1, key) for header, key in places)
        line = next(filter(None, lines), 0)
        raise in_file(refused, f"{self._path}, line {line}: " if line else f"{self._path}: ") from None

    def _ca_files(self) -> list[Path]:
        given = self._values.get("ca_file", [])
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise self._refused(ConfigError("ca_file is the path of a PEM file, or a list of them"), key="ca_file")
        paths = [self._beside(name) for name in names]
        self._files += paths
        return paths

    def _secret(self, name: str) -> Secret:
        where = f"secrets.{name}"
        table = self._values["secrets"][name]
        if not isinstance(table, dict):  # not shown: it may be the value itself
            said = ConfigError(f"secrets.{name} is no table", hint=f'[secrets.{name}] with value_env = "VARIABLE"')
            raise self._refused(said, "secrets", key=name)
        if "value" in table:
            said = ConfigError(
                "a policy file holds no secret's value", hint='value_env = "VARIABLE" or value_file = "PATH"'
            )
            raise self._refused(said, where, key="value")
        self._known(table, _SECRET, where)
        options = {key: value for key, value in table.items() if key not in ("value_env", "value_file")}
        try:
            return Secret(self._value(table), **options)
        except ConfigError as refused:
            raise self._refused(refused, where) from None

    def _value(self, table: Mapping[str, Any]) -> str:
        variable, file = table.get("value_env"), table.get("value_file")
        if (variable is None) == (file is None):
            raise ConfigError("a secret takes either value_env or value_file", hint='value_env = "VARIABLE"')
        if not isinstance(variable or file, str):
            raise ConfigError("value_env names a variable and value_file a file, as text")
        if variable is not None:
            found = self._environ.get(variable)
            if not found:
                raise ConfigError(f"the variable {variable} is not set", hint="set it before the program starts")
            return found
        path = self._beside(str(file))
        self._files.append(path)
        try:
            with path.open("rb") as opened:
                data = opened.read(_MAX_SECRET_FILE + 1)
            text = data.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{path} holds no text") from None
        except OSError as fault:
            raise ConfigError(f"{path} cannot be read: {fault.strerror}") from None
        return text.removesuffix("\n").removesuffix("\r")

    def _rules(self, action: str) -> list[Rule]:
        given = self._values.get(action, [])
        if not isinstance(given, list):
            raise self._refused(ConfigError(f"{action} is a list", hint=f"[[{action}]]"), key=action)
        found = []
        for number, entry in enumerate(given, 1):
            if isinstance(entry, str):
                entry = {"target": entry}
            if not isinstance(entry, dict):
                raise self._refused(ConfigError(f"{action} holds {entry!r}, which is no rule"), key=action)
            self._known(entry, _RULE, action, number)
            if "target" not in entry:
                said = ConfigError("a rule needs a target", hint='target = "api.example.com"')
                raise self._refused(said, action, number)
            try:
                rule = Rule(**entry)
                rule.expand("allow" if action == "allow" else "deny")
            except ConfigError as refused:
                raise self._refused(refused, action, number) from None
            found.append(rule)
        return found

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self._values.get(name, NOTHING)
        if not isinstance(table, Mapping):
            raise self._refused(ConfigError(f"{name} is no table", hint=f"[{name}]"), key=name)
        return table

    def _known(self, table: Mapping[str, Any], keys: Collection[str], header: str, number: int = 1) -> None:
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(keys)}"
                if not header and key in _ELSEWHERE:
                    hint = f"it belongs into [{_ELSEWHERE[key]}]: [{_ELSEWHERE[key]}.{key}] if it is a table"
                raise self._refused(ConfigError(f"unknown key {key!r}", hint=hint), header, number, key=key)

    def _beside(self, name: str) -> Path:
        """Return a path that the file names: relative ones begin where the file is."""
        return self._path.parent / Path(name).expanduser()

    def _refused(
        self, refused: ConfigError, header: str = "", number: int = 1, *, key: str | None = None
    ) -> ConfigError:
        line = _line_of(self._text, header, number, key) or _line_of(self._text, "", 1, header)
        place = f"{self._path}, line {line}" if line else str(self._path)
        table = header and (f"[[{header}]] number {number}: " if header in ("allow", "deny") else f"[{header}]: ")
        return in_file(refused, f"{place}: {table}")


def traffic_fault(table: Mapping[str, Any]) -> ConfigError | None:
    """Return what is wrong with a `[traffic]` table."""
    from fazt.core.traffic_config import TrafficConfig

    try:
        TrafficConfig.of(table, "traffic")
    except ConfigError as refused:
        return refused
    return None


def telemetry_fault(table: Mapping[str, Any]) -> ConfigError | None:
    """Return what is wrong with a `[telemetry]` table, as far as that shows before a sink is opened."""
    from fazt.telemetry.config import check_table

    try:
        check_table(table)
    except ConfigError as refused:
        return refused
    return None


def in_file(refused: ConfigError, place: str) -> ConfigError:
    """Return a refusal of a policy's arguments in the words of the file, with the place it stands at."""
    message, hint = refused.message, refused.hint
    for pattern, said in _SPELLINGS:
        message = pattern.sub(said, message)
        hint = hint and pattern.sub(said, hint)
    return ConfigError(f"{place}{message}", hint=hint)


def _line_of(text: str, header: str, number: int, key: str | None) -> int:
    """Return the line of a key, or else of its table's header; 0 where it is written in some other way."""
    wanted = None if key is None else re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
    seen, start = 0, 0
    inside = not header
    for at, line in enumerate(text.splitlines(), 1):
        found = _HEADER.fullmatch(line)
        if found is not None:
            name = re.sub(r"[\"']|\s", "", found[1])
            if not header and name.split(".")[0] == key:
                return at
            seen += name == header
            inside = bool(header) and name == header and seen == number
            start = at if inside else start
        elif inside and wanted is not None and wanted.match(line):
            return at
    return start
