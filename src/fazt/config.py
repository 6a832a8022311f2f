"""Settings of one process: a file, then the environment, then flags; the later one wins.

The file is `fazt.toml` in the data directory, with the keys of `Settings` that are named in `FILE_KEYS`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fazt.errors import ConfigError

FILE_KEYS: dict[str, type] = {
    "resolve": str,
    "ca_file": str,
    "host": str,
    "port": int,
    "workers": int,
    "path_routing": bool,
    "require_sandbox": str,
    "engine": str,
    "telemetry": dict,
    "traffic": dict,
}
"""Keys of the file and their types; `ca_file` adds to `ca_files`, the others are fields of `Settings`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where fazt keeps its state and how this process reaches the network.

    Args:
        data: the data directory (`--data`, `FAZT_DATA`, default `~/.fazt`).
        resolve: static names, `host=addr[,addr]` entries separated by spaces (`--resolve`, `FAZT_RESOLVE`).
        ca_files: PEM files added to the system's trust store (`--ca-file`, `FAZT_CA_FILE`).
        host, port: where `fazt serve` listens.
        workers: invocations that run at a time; 0 means 16.
        path_routing: serve `/_app/NAME/` to peers other than loopback too.
        require_sandbox: "" accepts what the kernel grants beside seccomp; "full" needs all of it.
        engine: "" takes the built guest or falls back to jsbox; "wasm" or "jsbox" insist.
        telemetry: where events go beside the log (`telemetry.fanout_from_config`).
        traffic: rates, breakers, services (`core.traffic`).
    """

    data: Path
    resolve: str = ""
    ca_files: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7878
    workers: int = 0
    path_routing: bool = False
    require_sandbox: str = ""
    engine: str = ""
    telemetry: Mapping[str, Any] = field(default_factory=dict, hash=False)
    traffic: Mapping[str, Any] = field(default_factory=dict, hash=False)


def load(
    *,
    data: str | None = None,
    resolve: str | None = None,
    ca_files: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    **flags: Any,
) -> Settings:
    """Build the settings of this process.

    Args:
        data, resolve, ca_files: values of the flags, None or () where not given.
        environ: the environment, `os.environ` by default.
        flags: further fields of `Settings`; None means not given.

    Raises:
        ConfigError: a file that is not TOML, an unknown key, a value of the wrong type.
    """
    env = os.environ if environ is None else environ
    directory = Path(data or env.get("FAZT_DATA") or Path("~/.fazt")).expanduser().absolute()
    settings = _from_file(Settings(directory), directory / "fazt.toml")
    if env.get("FAZT_CA_FILE"):
        settings = replace(settings, ca_files=(Path(env["FAZT_CA_FILE"]).expanduser(),))
    if ca_files:
        settings = replace(settings, ca_files=tuple(Path(name).expanduser() for name in ca_files))
    for name in settings.ca_files:
        if not name.is_file():
            raise ConfigError(
                f"the CA file {name} does not exist", hint="name a PEM file: --ca-file PATH or FAZT_CA_FILE"
            )
    # the flag comes last, so that its entry for a name wins over the environment's (net.resolve takes the last)
    names = " ".join(part for part in (settings.resolve, env.get("FAZT_RESOLVE", ""), resolve or "") if part)
    given = {key: value for key, value in flags.items() if value is not None}
    return replace(settings, resolve=names, **given)


def _from_file(settings: Settings, path: Path) -> Settings:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return settings
    except NotADirectoryError:
        raise ConfigError(f"{path.parent} is not a directory", hint="--data names a directory") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise ConfigError(f"{path} cannot be read: {fault}", hint="mend the file or move it away") from None
    for key, value in values.items():
        if key not in FILE_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}", hint=f"known keys: {', '.join(FILE_KEYS)}")
        if type(value) is not FILE_KEYS[key]:
            raise ConfigError(
                f"{path}: {key} must be a {'table' if FILE_KEYS[key] is dict else FILE_KEYS[key].__name__}"
            )
        change: dict[str, Any] = {key: value}
        if key == "ca_file":
            change = {"ca_files": (Path(str(value)).expanduser(),)}
        settings = replace(settings, **change)
    return settings
