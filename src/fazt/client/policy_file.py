"""A policy that a file describes, followed while the process runs.

One daemon thread looks at the files of all such policies four times a second; a call never does. A change counts when
two looks in a row see the same: what an editor has half written is not read. When the new text cannot be used, the
last good policy stays, and `error` says why.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fazt.client.policies import Policy, PolicyChange, Stop, Watcher
from fazt.client.policy_arguments import Made, MemoryVault, compose
from fazt.client.policy_toml import Described, described, in_file
from fazt.errors import ConfigError, OperatorError
from fazt.net.forked import renew

if TYPE_CHECKING:
    from fazt.client.rules import Secret
    from fazt.core.policy import Policy as Snapshot
    from fazt.core.remedy import Remedy
    from fazt.core.rules import HostKey, Rule, RuleIndex

_logger = logging.getLogger("fazt.policy")
POLL_SECONDS = 0.25
# So long after a change the clock of the file system may not tell a second change from the first.
_YOUNG_SECONDS = 2.0

Stamp = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the files said at one time; `digest` is of all of them, `authorities` of the CA files alone."""

    made: Made
    said: Described
    versions: Mapping[str, tuple[Secret, int]]
    digest: bytes
    authorities: bytes


class FilePolicy(Policy):
    """The policy of one file; `Policy.from_file` makes it.

    Args:
        path: the file, as `client.policy_toml` describes it.

    Raises:
        ConfigError: it cannot be read or used.
    """

    __slots__ = ("_closed", "_era", "_error", "_files", "_loading", "_path", "_read", "_seen", "_stamp", "_watchers")
    _closed: bool
    _era: int
    _error: OperatorError | None
    _files: tuple[Path, ...]
    _loading: threading.Lock
    _path: Path
    _read: _Loaded
    _seen: Stamp
    """What the last look saw."""
    _stamp: Stamp | None
    """Of the files as they were when they were read; None: to be read again in any case."""
    _watchers: list[Watcher]

    def __init__(self, path: str | PathLike[str]) -> None:
        self._set("_path", Path(path).expanduser().absolute())
        self._set("_files", (self._path,))
        self._set("_watchers", [])
        self._set("_loading", threading.Lock())
        self._set("_error", None)
        self._set("_closed", False)
        self._set("_seen", _stamp(self._files))
        self._set("_vault", MemoryVault({}))
        self._set("_id", hashlib.sha256(f"file {self._path}".encode()).hexdigest()[:32])
        self._take(self._load(1, {}))
        self._set("_stamp", None if _is_young(self._seen) else self._seen)
        self._set("_era", _watch.era)
        _watch.add(self)

    @property
    def current(self) -> Snapshot:
        """The newest good snapshot."""
        if self._era != _watch.era:  # in a forked child, which has no thread that looked meanwhile
            self._rejoin()
        return self._made.snapshot

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def name(self) -> str:
        """What the file calls it, or the file's own name."""
        return self._read.said.arguments.name

    @property
    def error(self) -> OperatorError | None:
        """Why the file as it is now cannot be used; None when it is in use."""
        return self._error

    @property
    def traffic(self) -> Mapping[str, Any]:
        """The table `[traffic]` as it stands in the file."""
        return self._read.said.traffic

    @property
    def telemetry(self) -> Mapping[str, Any]:
        """The table `[telemetry]` as it stands in the file."""
        return self._read.said.telemetry

    def watch(self, callback: Watcher) -> Stop:
        """Call `callback(change)` after each new snapshot, in the thread that made it; return what ends that."""
        watchers = self._watchers
        watchers.append(callback)

        def stop() -> None:
            if callback in watchers:
                watchers.remove(callback)

        return stop

    def close(self) -> None:
        """Follow the file no longer; the last good policy stays."""
        self._set("_closed", True)
        _watch.discard(self)
        self._watchers.clear()

    def fix(self, remedy: Remedy) -> str:
        """Return the tables to add to the file."""
        from fazt.client.policy_explain import in_toml

        return in_toml(remedy)

    def look(self, *, settled: bool = False) -> None:
        """Read the files again if they changed; never raises.

        Args:
            settled: take a change at its first sight, as after a long time without looking.
        """
        with self._loading:
            stamp, before = _stamp(self._files), self._seen
            self._set("_seen", stamp)
            if stamp == self._stamp or (stamp != before and not settled):
                return
            change = self._reload()
            # What changes while it is read is seen at the next look: the stamp is from before.
            self._set("_stamp", None if _is_young(stamp) else stamp)
        if change is not None:
            self._tell(change)

    def _reload(self) -> PolicyChange | None:
        old, failed = self._read, None
        try:
            new = self._load(old.made.snapshot.revision + 1, old.versions)
        except OperatorError as refused:
            failed = refused
        except Exception as fault:  # the thread follows other files too, and the last good policy must stay
            _logger.exception("the policy file %s could not be read", self._path)
            failed = ConfigError(f"{self._path} cannot be read: {type(fault).__name__}")
        self._note(failed)
        if failed is not None or new.digest == old.digest:
            return None
        self._take(new)
        return PolicyChange(
            old.made.snapshot,
            new.made.snapshot,
            hosts=_changed_hosts(old.made.snapshot, new.made.snapshot),
            network=old.made.resolve != new.made.resolve
            or (old.made.ca_files, old.authorities) != (new.made.ca_files, new.authorities),
        )

    def _load(self, revision: int, versions: Mapping[str, tuple[Secret, int]]) -> _Loaded:
        """Read everything; nothing is taken of what cannot be used as a whole.

        Raises:
            ConfigError: it cannot be read or used.
        """
        files = [self._path]
        try:
            data = self._path.read_bytes()
            said = described(data, self._path, files=files)
            authorities = _digest(path.read_bytes() for path in said.arguments.ca_files)
        except OSError as fault:
            where = fault.filename or self._path
            raise ConfigError(f"{where} cannot be read: {fault.strerror}", hint="put the file back") from None
        finally:
            self._set("_files", tuple(dict.fromkeys(files)))
        secrets = said.arguments.secrets
        numbered = {
            # a number is for one value with its hosts: what was judged under another is not given out
            name: versions[name] if name in versions and versions[name][0] == secret else (secret, revision)
            for name, secret in secrets.items()
        }
        try:
            metas = [secret.meta(name, version) for name, (secret, version) in numbered.items()]
            made = compose(said.arguments, metas, revision=revision)
        except ConfigError as refused:
            raise in_file(refused, f"{self._path}: ") from None
        digest = _digest([data, authorities, *(secret.value.encode() for secret in secrets.values())])
        return _Loaded(made, said, numbered, digest, authorities)

    def _take(self, new: _Loaded) -> None:
        vault = self._vault
        vault.replace({name: (version, secret.value) for name, (secret, version) in new.versions.items()})
        self._set("_read", new)
        self._set("_arguments", new.said.arguments)
        self._set("_made", new.made)

    def _note(self, failed: OperatorError | None) -> None:
        before = self._error
        self._set("_error", failed)
        if failed is None:
            if before is not None:
                _logger.info("the policy file %s can be used again", self._path)
        elif before is None or before.message != failed.message:
            hint = f" ({failed.hint})" if failed.hint else ""
            _logger.warning(
                "going on with the last good policy, revision %d: %s%s",
                self._made.snapshot.revision,
                failed.message,
                hint,
            )

    def _tell(self, change: PolicyChange) -> None:
        for callback in tuple(self._watchers):
            try:
                callback(change)
            except Exception:  # one who listens must not keep the others, or the next change, from being told
                _logger.exception("a listener to changes of %s failed", self._path)

    def _rejoin(self) -> None:
        with _watch.lock:
            if self._era == _watch.era:
                return
            self._watchers.clear()  # they belong to the parent's clients
            self._set("_loading", threading.Lock())
            self._set("_era", _watch.era)
        if not self._closed:
            self.look(settled=True)
            _watch.add(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return FilePolicy, (self._path,)


class _Watch:
    """The one thread of a process that looks at files, and the policies it looks at for as long as anybody has them."""

    def __init__(self) -> None:
        self.era = 0
        self.start_anew()

    def start_anew(self) -> None:
        """Begin without a thread, as in a forked child."""
        self.era += 1
        self.lock = threading.Lock()
        self._policies: weakref.WeakSet[FilePolicy] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def add(self, policy: FilePolicy) -> None:
        with self.lock:
            self._policies.add(policy)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="fazt-policy-files", daemon=True)
                thread.start()
                self._thread = thread

    def discard(self, policy: FilePolicy) -> None:
        with self.lock:
            self._policies.discard(policy)

    def _run(self) -> None:
        while self._look():
            time.sleep(POLL_SECONDS)

    def _look(self) -> bool:
        """Look once; answer whether anybody is left to look for."""
        with self.lock:
            policies = list(self._policies)
            if not policies:
                self._thread = None
                return False
        for policy in policies:
            policy.look()
        return True


def _stamp(files: Sequence[Path]) -> Stamp:
    """Return what tells that a file is another one, or has another content; None for one that cannot be seen."""
    found: list[tuple[int, ...] | None] = []
    for path in files:
        try:
            seen = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
    return tuple(found)


def _is_young(stamp: Stamp) -> bool:
    now = time.time_ns()
    return any(seen is not None and now - max(seen[3:]) < _YOUNG_SECONDS * 1e9 for seen in stamp)


def _digest(parts: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _changed_hosts(old: Snapshot, new: Snapshot) -> tuple[tuple[str, str], ...] | None:
    if old.public != new.public:
        return None
    before, after = _by_host(old.rules), _by_host(new.rules)
    return tuple(sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)))


def _by_host(index: RuleIndex) -> dict[HostKey, set[Rule]]:
    found: dict[HostKey, set[Rule]] = {}
    for rule in index.rules():
        found.setdefault((rule.scope, rule.pattern), set()).add(rule)
    return found


_watch = _Watch()
renew(_watch)
