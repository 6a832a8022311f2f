"""Policies of a Python program: made in memory, read from a file, or the data directory's.

Every kind gives the engine one immutable snapshot (`current`) and keeps the values of its secrets apart from it, in
`vault`. None can reach an address that is not public unless a rule names the range.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fazt.client.policy_arguments import (
    NOTHING,
    Arguments,
    CaFile,
    Made,
    MemoryVault,
    Resolve,
    compose,
    digest,
    public_grant,
)
from fazt.client.rules import Rule, Secret
from fazt.core.policy import Policy as Snapshot
from fazt.core.public import PORTS
from fazt.errors import OperatorError

if TYPE_CHECKING:
    from fazt.core.explain import Explanation
    from fazt.core.limits import Limits
    from fazt.core.remedy import Remedy, World
    from fazt.ports import RecordSink, Vault

__all__ = ["Policy", "PolicyChange", "Rule", "Secret", "Stop", "Watcher"]


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A policy became another one.

    Args:
        old, new: the snapshots.
        hosts: (app id or "" for all, host pattern) of the rules that changed; None: any may have.
        network: static names or certificate authorities changed.
        apps: ids of apps that came or went.
    """

    old: Snapshot
    new: Snapshot
    hosts: tuple[tuple[str, str], ...] | None = None
    network: bool = False
    apps: tuple[str, ...] = ()


Watcher = Callable[[PolicyChange], None]
Stop = Callable[[], None]


class Policy:
    """Where calls may go, with which secrets and within which limits. Cannot be changed.

    Args:
        allow: hosts (`"api.github.com"`, `"*.example.com"`) and `fazt.Rule`s. What is not here is refused.
        deny: what is refused whatever is allowed.
        resolve: addresses of names that are never looked up; they are judged like any DNS answer.
        ca_file: PEM files whose certificate authorities count beside the system's.
        secrets: credentials by the name that `secret=` and `fazt.Rule(inject=…)` call them.
        name: what the policy is called in its `repr`.

    Raises:
        ConfigError: something cannot be used; `hint` says what to write instead.
    """

    __slots__ = ("__weakref__", "_arguments", "_id", "_made", "_vault")
    _arguments: Arguments
    _id: str
    _made: Made
    _vault: MemoryVault

    def __init__(
        self,
        allow: Iterable[Rule | str] = (),
        deny: Iterable[Rule | str] = (),
        *,
        resolve: Resolve | None = None,
        ca_file: CaFile | Sequence[CaFile] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        name: str = "",
    ) -> None:
        self._begin(Arguments(allow, deny, None, resolve, ca_file, secrets, name))

    def _begin(self, given: Arguments) -> None:
        held = given.secrets
        made = compose(given, [secret.meta(name, 1) for name, secret in held.items()])
        self._set("_arguments", given)
        self._set("_made", made)
        self._set("_vault", MemoryVault({name: (1, secret.value) for name, secret in held.items()}))
        self._set("_id", digest(made))

    @classmethod
    def public(
        cls,
        *,
        allow: Iterable[Rule | str] = (),
        deny: Iterable[Rule | str] = (),
        ports: Sequence[int] = PORTS,
        https_only: bool = False,
        methods: Sequence[str] = (),
        rate: int | str = 0,
        burst: int | None = None,
        max_bytes: int = 0,
        timeout: float | None = None,
        cache_ttl: int = 0,
        resolve: Resolve | None = None,
        ca_file: CaFile | Sequence[CaFile] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        name: str = "",
    ) -> Policy:
        """Return a policy for URLs that somebody else chose: any host whose every address is public.

        Args:
            allow: hosts with rules of their own, which then stand in place of the grant for all.
            deny: hosts that are refused.
            ports: the ports that may be called.
            https_only: refuse plain http.
            methods: the only methods meant; none for all.
            rate: requests a minute to each host, or text such as "10/second"; 0 for no limit.
            burst: requests to one host that may come at once; as many as the rate names unless said.
            max_bytes: largest response body on the wire; 0 for the client's.
            timeout: time limit of a call in seconds; None for the client's.
            cache_ttl: most seconds a response may be kept; 0: the caller and the server say.
            resolve, ca_file, secrets, name: as in `Policy`.

        Raises:
            ConfigError: as `Policy`.
        """
        grant = public_grant(
            ports=ports,
            https_only=https_only,
            methods=methods,
            rate=rate,
            burst=burst,
            max_bytes=max_bytes,
            timeout=timeout,
            cache_ttl=cache_ttl,
        )
        return _again(Arguments(allow, deny, grant, resolve, ca_file, secrets, name))

    @staticmethod
    def from_file(path: str | PathLike[str]) -> Policy:
        """Return the policy that a TOML file describes, and follow its changes (`client.policy_file`).

        Args:
            path: the file.

        Raises:
            ConfigError: it cannot be read or used; file, table and key are named.
        """
        from fazt.client.policy_file import FilePolicy

        return FilePolicy(path)

    @property
    def current(self) -> Snapshot:
        """The newest good snapshot, which decides whole calls."""
        return self._made.snapshot

    @property
    def vault(self) -> Vault:
        """Where the values of its secrets are; one object for life."""
        return self._vault

    @property
    def sink(self) -> RecordSink | None:
        """Where records of calls go beside what the client is told; None: nowhere."""
        return None

    @property
    def app(self) -> str | None:
        """The app that was named, None without one."""
        return None

    @property
    def app_id(self) -> str:
        """What a request names as its app now; "" for none. Read it for each call."""
        return ""

    @property
    def resolve(self) -> Mapping[str, tuple[str, ...]]:
        """Addresses of names that are never looked up."""
        return self._made.resolve

    @property
    def ca_files(self) -> tuple[Path, ...]:
        """PEM files that count beside the system's certificate authorities."""
        return self._made.ca_files

    @property
    def own_listeners(self) -> Collection[tuple[str, int]]:
        """(address, port) of fazt's own listeners, which no rule lets a call reach; for the wire."""
        return ()

    @property
    def limits(self) -> Limits:
        """The limits that hold for its calls."""
        return self.current.limits

    @property
    def id(self) -> str:
        """A digest that is the same in every process, for the keys of pools and caches; holds no secret's value."""
        return self._id

    @property
    def name(self) -> str:
        """What it was called."""
        return self._arguments.name

    @property
    def error(self) -> OperatorError | None:
        """Why the snapshot may be old; None when nothing is wrong."""
        return None

    @property
    def traffic(self) -> Mapping[str, Any]:
        """The `[traffic]` settings that came with it."""
        return NOTHING

    @property
    def telemetry(self) -> Mapping[str, Any]:
        """The `[telemetry]` settings that came with it."""
        return NOTHING

    def watch(self, callback: Watcher) -> Stop:
        """Call `callback(change)` after each new snapshot, in the thread that made it; return what ends that."""
        return _stop

    def close(self) -> None:
        """Give back what it holds; it may be called again."""

    def explain(self, url: str, method: str = "GET", app: str = "", *, secret: str | None = None) -> Explanation:
        """Say gate by gate why a call would be allowed or refused, and what would let it pass.

        The name is looked up only when a rule matches, and nothing is connected to.

        Args:
            url: as a caller would write it.
            method: its method.
            app: name or id of an app, where the policy is a data directory's.
            secret: name of a secret that the call would ask for.

        Returns: an explanation with `allowed`, `gates`, `rule`, `reason` and `fix`; true when the call would pass;
            readable with `str()`, and in the shape of `fazt explain --json` with `.json()`.
        """
        from fazt.client.policy_explain import explained

        return explained(self, url, method=method, app=app, secret=secret)

    @property
    def by_command(self) -> bool:
        """Whether commands of `fazt` change it."""
        return False

    def fix(self, remedy: Remedy) -> str:
        """Return what to write so that a refused call passes."""
        from fazt.client.policy_explain import in_source

        return in_source(remedy)

    def world(self) -> World:
        """Return what surrounds its calls: static names and this machine's interfaces."""
        from fazt import hardware
        from fazt.core.remedy import World

        return World(self.resolve, frozenset(self.own_listeners), frozenset(hardware.interface_addresses()))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a policy cannot be changed ({name}); make another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a policy cannot be changed ({name}); make another one")

    def __repr__(self) -> str:
        held = self._made.snapshot
        label = f" {self.name!r}" if self.name else ""
        public = "public hosts, " if held.public is not None else ""
        rules = f"{len(held.rules)} rule{'s' if len(held.rules) != 1 else ''}"
        secrets = f"{len(held.secrets)} secret{'s' if len(held.secrets) != 1 else ''}"
        return f"<{type(self).__name__}{label}: {public}{rules}, {secrets}>"

    def __eq__(self, other: object) -> bool:
        if type(self) is not Policy or type(other) is not Policy:
            return self is other
        return self._id == other._id and self._arguments.secrets == other._arguments.secrets

    def __hash__(self) -> int:
        return hash(self._id) if type(self) is Policy else object.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._arguments,)


def _again(given: Arguments) -> Policy:
    policy = Policy.__new__(Policy)
    policy._begin(given)
    return policy


def _stop() -> None:
    pass
