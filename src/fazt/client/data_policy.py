"""The data directory as a policy: its rules, secrets and limits for one app, followed while the process runs.

Its store is shared (`client.open_stores`), and a forked child opens another one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fazt import config
from fazt.client.open_stores import STORES, Shared
from fazt.client.own_listeners import OwnListeners
from fazt.client.policies import Policy, PolicyChange, Stop, Watcher
from fazt.client.policy_arguments import Arguments
from fazt.errors import ConfigError, FaztError, OperatorError, Reason, StoreError
from fazt.net.resolve import parse_resolve

if TYPE_CHECKING:
    from pathlib import Path

    from fazt.core.explain import Explanation
    from fazt.core.limits import Limits
    from fazt.core.policy import Policy as Snapshot
    from fazt.core.record import CallRecord
    from fazt.core.remedy import Remedy
    from fazt.ports import RecordSink, Vault
    from fazt.stores.sqlite.store import Store

_logger = logging.getLogger("fazt.policy")


class DataPolicy(Policy):
    """What the data directory grants an app, or the operator's own programs.

    Args:
        app: name or id of the app; None for calls that belong to none. One that does not exist is refused every call.
        data: the data directory; by default `FAZT_DATA`, else `~/.fazt`. Made when it is missing.
        settings: of this process, in place of what `fazt.toml` and the environment say.

    Raises:
        ConfigError: an empty name, or settings that cannot be used.
        StoreError: the directory cannot be opened.
    """

    __slots__ = ("_app", "_data", "_own", "_rooms", "_settings", "_shared", "_static", "_stopped", "_watchers")
    _app: str | None
    _data: str | None
    _own: OwnListeners
    _rooms: _Rooms
    _settings: config.Settings
    _shared: Shared | None
    _static: Mapping[str, tuple[str, ...]]
    _stopped: bool
    _watchers: list[Watcher]

    def __init__(
        self, app: str | None = None, *, data: str | None = None, settings: config.Settings | None = None
    ) -> None:
        if app is not None and not isinstance(app, str):
            raise ConfigError(f"app is the name or id of an app, not {app!r}")
        if app == "":  # an unset variable must not become the operator's own calls
            raise ConfigError("the name of the app is empty", hint="leave app out for calls that belong to no app")
        if settings is None:
            settings = config.load(data=data)
        self._set("_app", app)
        self._set("_data", data)
        self._set("_settings", settings)
        self._set("_static", parse_resolve(settings.resolve))
        self._set("_arguments", Arguments((), (), None, None, settings.ca_files, None, app or ""))
        self._set("_own", OwnListeners(settings.data))
        self._set("_rooms", _Rooms(self))
        self._set("_watchers", [])
        self._set("_stopped", False)
        self._set("_shared", None)
        shared = STORES.join(settings.data, self)
        self._set("_shared", shared)
        self._set("_id", hashlib.sha256(f"data {shared.store.data_id}".encode()).hexdigest()[:32])

    @property
    def current(self) -> Snapshot:
        """The newest good snapshot.

        Raises:
            FaztError: `store`, when the policy was closed, or the directory cannot be opened in a forked child.
        """
        shared = self._shared
        if shared is None:
            shared = self._live()
        return shared.source.current

    @property
    def vault(self) -> Vault:
        """Where the values of its secrets are."""
        return self._rooms

    @property
    def sink(self) -> RecordSink:
        """The log of the data directory."""
        return self._rooms

    @property
    def app(self) -> str | None:
        """The app as it was named."""
        return self._app

    @property
    def app_id(self) -> str:
        """The id that the name means now; the name itself where it means none, which is then refused every call."""
        if self._app is None:
            return ""
        found = self.current.app_named(self._app)
        return self._app if found is None else found.id

    @property
    def resolve(self) -> Mapping[str, tuple[str, ...]]:
        """Static names of the settings."""
        return self._static

    @property
    def ca_files(self) -> tuple[Path, ...]:
        """PEM files of the settings."""
        return self._settings.ca_files

    @property
    def own_listeners(self) -> OwnListeners:
        """Listeners of the server that runs on the directory, as they are when a connection is made."""
        return self._own

    @property
    def limits(self) -> Limits:
        """The limits of the app."""
        return self.current.limits_for(self.app_id)

    @property
    def settings(self) -> config.Settings:
        """The settings it was opened with."""
        return self._settings

    @property
    def error(self) -> OperatorError | None:
        """Why the snapshot may be old; None when the last look at the database worked."""
        shared = self._shared
        return None if shared is None else shared.source.error

    @property
    def traffic(self) -> Mapping[str, Any]:
        """`[traffic]` of `fazt.toml`."""
        return self._settings.traffic

    @property
    def telemetry(self) -> Mapping[str, Any]:
        """`[telemetry]` of `fazt.toml`."""
        return self._settings.telemetry

    @property
    def store(self) -> Store:
        """The open data directory of this process.

        Raises:
            FaztError: as `current`.
        """
        return self._live().store

    @property
    def by_command(self) -> bool:
        """Whether commands of `fazt` change it: they do."""
        return True

    def watch(self, callback: Watcher) -> Stop:
        """Call `callback(change)` after each new snapshot, in the thread that made it; return what ends that."""
        watchers = self._watchers
        watchers.append(callback)

        def stop() -> None:
            if callback in watchers:
                watchers.remove(callback)

        return stop

    def tell(self, change: PolicyChange) -> None:
        """Tell those who watch (called by the thread that follows the database)."""
        for callback in tuple(self._watchers):
            try:
                callback(change)
            except Exception:  # one who listens must not keep the others, or the next snapshot, from being told
                _logger.exception("a listener to policy changes failed")

    def close(self) -> None:
        """Write what waits for the log and give the store back; the last one who has it closes it."""
        self._set("_stopped", True)
        self._watchers.clear()
        shared = self._shared
        self._set("_shared", None)
        if shared is not None:
            STORES.leave(shared, self)

    def forked(self) -> None:
        """Forget the store in a forked child: it is the parent's, and so are those who watch."""
        self._set("_shared", None)
        self._set("_watchers", [])

    def explain(self, url: str, method: str = "GET", app: str = "", *, secret: str | None = None) -> Explanation:
        """Say gate by gate why a call would be allowed or refused; as `Policy.explain`, for its own app by default."""
        from fazt.client.policy_explain import explained

        named = app or self._app or ""
        meta = self.current.app_named(named) if named else None
        found = explained(
            self,
            url,
            method=method,
            app=named if meta is None else meta.id,
            secret=secret,
            may_create=meta is None and bool(named) and _nameable(named),
        )
        if any((gate.gate, gate.verdict) == ("secret", "pass") for gate in found.gates):
            return self._opening(found)
        return found

    def _opening(self, found: Explanation) -> Explanation:
        """Say beside a secret that may be sent that its value cannot be opened in this process."""
        try:
            self._live().secrets.warm()
        except StoreError as fault:
            note = f"; this process cannot open it: {fault.message}" + (f"; {fault.hint}" if fault.hint else "")
            gates = [
                replace(gate, detail=gate.detail + note) if gate.gate == "secret" else gate for gate in found.gates
            ]
            return replace(found, gates=tuple(gates))
        return found

    def fix(self, remedy: Remedy) -> str:
        """Return the command to run; it names the directory where it was not the environment's."""
        import shlex

        at = f" --data {shlex.quote(self._data)}" if self._data else ""
        return " && ".join(f"{command}{at}" for command in remedy.commands)

    def _live(self) -> Shared:
        shared = self._shared
        if shared is not None:
            return shared
        if self._stopped:
            raise FaztError(Reason.STORE, "the policy was closed", retryable=False)
        try:
            shared = STORES.join(self._settings.data, self)
        except OperatorError as fault:
            raise FaztError(Reason.STORE, "fazt's own store could not be opened", detail=fault.message) from fault
        self._set("_shared", shared)
        return shared

    def __repr__(self) -> str:
        whom = f" for {self._app}" if self._app is not None else ""
        return f"<DataPolicy {self._settings.data}{whom}>"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._app, self._data, self._settings)


def _again(app: str | None, data: str | None, settings: config.Settings) -> DataPolicy:
    return DataPolicy(app, data=data, settings=settings)


def _nameable(name: str) -> bool:
    """Tell whether a grant may make an app of this name."""
    from fazt.stores.sqlite.apps import ID_PREFIX, check_app_name

    try:
        return not name.startswith(ID_PREFIX) and bool(check_app_name(name))
    except ConfigError:
        return False


class _Rooms:
    """Vault and log of a data policy; the same objects for life, also where a fork put another store behind them."""

    __slots__ = ("_policy",)

    def __init__(self, policy: DataPolicy) -> None:
        self._policy = policy

    def value(self, scope: str, name: str, *, version: int | None = None) -> str:
        """Return the value of a secret (`ports.Vault`)."""
        return self._policy._live().secrets.value(scope, name, version=version)

    def append(self, record: CallRecord) -> None:
        """Take one finished record (`ports.RecordSink`)."""
        try:
            log = self._policy._live().log
        except FaztError as fault:  # a sink must not raise: the call is over
            _logger.warning("a record of a call was lost: %s", fault)
        else:
            log.append(record)
