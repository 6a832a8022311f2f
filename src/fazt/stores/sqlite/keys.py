"""The key that seals secrets, and the sealing: AES-256-GCM, each value bound to the row it stands in.

The key never lies in a database: it comes from the environment or from a 0600 file outside the data directory, so
that a copied data directory holds no usable secret. A key file may hold two keys, one a line, while secrets are being
sealed anew; which of them fits is decided by a check value in the database.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fazt.errors import ConfigError, StoreError
from fazt.stores.sqlite.private import private_directory, read_private, replace_file, write_once

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_VARIABLE = "FAZT_SECRETS_KEY"
NEXT_KEY_VARIABLE = "FAZT_SECRETS_KEY_NEXT"
KEY_BYTES = 32
NONCE_BYTES = 12
"""NIST SP 800-38D section 8.2.2: random nonces of 96 bits."""


class KeyProvider(Protocol):
    """Where the key comes from. `place` names it for errors; `warnings` are to be shown to the operator."""

    place: str
    warnings: list[str]

    def load(self) -> tuple[bytes, ...]:
        """Return the keys there are, none when none was ever made here."""

    def create(self) -> bytes:
        """Make the first key, or return the one that another process just made."""

    def following(self) -> bytes:
        """Return the key to seal with from now on (`secret rekey`)."""

    def replace(self, keys: Sequence[bytes]) -> None:
        """Keep exactly these keys."""


class EnvironmentKey:
    """A key given in `FAZT_SECRETS_KEY`: 32 bytes in base64.

    Args:
        text: the variable's value.
        following: that of `FAZT_SECRETS_KEY_NEXT`, "" when it is not set.

    Raises:
        ConfigError: it is anything else.
    """

    def __init__(self, text: str, *, following: str = "") -> None:
        self.place = f"the variable {KEY_VARIABLE}"
        self.warnings: list[str] = []
        self._keys: tuple[bytes, ...] = (parse_key(text, where=self.place),)
        self._following = following

    def __repr__(self) -> str:
        return f"<EnvironmentKey {KEY_VARIABLE}>"

    def load(self) -> tuple[bytes, ...]:
        """Return the key that was given, and during a change the next one."""
        return self._keys

    def create(self) -> bytes:
        """Return the key that was given; it needs no making."""
        return self._keys[0]

    def following(self) -> bytes:
        """Return the key in `FAZT_SECRETS_KEY_NEXT`.

        Raises:
            ConfigError: the variable is not set or holds no key.
        """
        if not self._following:
            raise ConfigError(
                f"the key comes from {KEY_VARIABLE}, so the next one has to be given too",
                hint=f"set {NEXT_KEY_VARIABLE}, run this again, then move its value to {KEY_VARIABLE}",
            )
        return parse_key(self._following, where=f"the variable {NEXT_KEY_VARIABLE}")

    def replace(self, keys: Sequence[bytes]) -> None:
        """Use these keys from now on in this process; the environment is the operator's to change."""
        self._keys = tuple(keys)


class KeyFile:
    """A key file per data directory, made at the first secret.

    Args:
        data_id: id of the data directory.
        directory: where keys lie, `~/.config/fazt/keys` by default; None where there is no home.
        fallback: the data directory, used with a warning when `directory` cannot be.
        following: value of `FAZT_SECRETS_KEY_NEXT`, "" when it is not set.
    """

    def __init__(self, data_id: str, *, directory: Path | None, fallback: Path, following: str = "") -> None:
        self._following = following
        name = f"{data_id}.key"
        self._outside = None if directory is None else directory / name
        self._inside = fallback / "secrets.key"
        self.warnings: list[str] = []
        self.place = str(self._outside or self._inside)

    def __repr__(self) -> str:
        return f"<KeyFile {self.place}>"

    def load(self) -> tuple[bytes, ...]:
        """Return the keys in the file, or in the one of the data directory.

        Raises:
            StoreError: a file that cannot be read, that others may read, or that holds no key.
        """
        keys: list[bytes] = []
        for path in (self._outside, self._inside):
            text = None if path is None else read_private(path, what="the key of the secrets")
            if path is None or text is None:
                continue
            self._warn_if_inside(path)
            try:
                keys += [parse_key(line, where=str(path)) for line in text.split()]
            except ConfigError as error:
                raise StoreError(error.message, hint="restore the key file from a backup") from None
        return tuple(keys)

    def create(self) -> bytes:
        """Make a key file, whole and 0600 or not at all.

        Raises:
            StoreError: it can be written neither outside the data directory nor in it.
        """
        key = os.urandom(KEY_BYTES)
        if self._outside is not None:
            try:
                self._make_home(self._outside.parent)
                made = write_once(self._outside, _lines([key]))
                self._warn_if_inside(self._outside)
                return key if made else self.load()[0]
            except (OSError, StoreError):
                pass  # a service user whose home does not exist or is read-only: the data directory, with a warning
        try:
            made = write_once(self._inside, _lines([key]))
        except OSError as error:
            raise StoreError(f"cannot write the key of the secrets to {self._inside}: {error.strerror}") from error
        self._warn_if_inside(self._inside)
        return key if made else self.load()[0]

    def following(self) -> bytes:
        """Return a fresh key, or the one in `FAZT_SECRETS_KEY_NEXT`.

        Raises:
            ConfigError: the variable holds no key.
        """
        if self._following:
            return parse_key(self._following, where=f"the variable {NEXT_KEY_VARIABLE}")
        return os.urandom(KEY_BYTES)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Put these keys in place of the ones in the file.

        Raises:
            StoreError: it cannot be written.
        """
        path = self._inside if self._outside is None or not self._outside.exists() else self._outside
        try:
            replace_file(path, _lines(keys))
            if path == self._outside and self._inside.exists():
                self._inside.unlink()
        except OSError as error:
            raise StoreError(f"cannot write the key of the secrets to {path}: {error.strerror}") from error

    def _make_home(self, directory: Path) -> None:
        for path in (directory.parent.parent, directory.parent, directory):
            private_directory(path)

    def _warn_if_inside(self, path: Path) -> None:
        """Warn where a copy of the data directory holds the key: without a home, or with the home in it."""
        if not path.resolve().is_relative_to(self._inside.parent.resolve()):
            return
        self.place = str(path)
        warning = (
            f"the key of the secrets lies beside them in {path}: whoever copies the data directory can read "
            f"them; set {KEY_VARIABLE}, or HOME or XDG_CONFIG_HOME to a place outside"
        )
        if warning not in self.warnings:
            self.warnings.append(warning)


def key_provider(data_id: str, data_dir: Path, *, environ: Mapping[str, str] | None = None) -> KeyProvider:
    """Choose where the key of a data directory comes from: the environment, or a key file.

    Args:
        data_id: id of the data directory.
        data_dir: the data directory.
        environ: the environment, `os.environ` by default.

    Raises:
        ConfigError: `FAZT_SECRETS_KEY` holds no key.
    """
    env = os.environ if environ is None else environ
    given = env.get(KEY_VARIABLE, "")
    following = env.get(NEXT_KEY_VARIABLE, "")
    if given:
        return EnvironmentKey(given, following=following)
    return KeyFile(data_id, directory=_key_directory(env), fallback=data_dir, following=following)


def parse_key(text: str, *, where: str) -> bytes:
    """Decode a key of 32 bytes in base64, standard or URL-safe.

    Raises:
        ConfigError: it is anything else; what was given is not repeated.
    """
    try:
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{where} holds no key: 32 bytes in base64 are needed",
            hint="make one: head -c 32 /dev/urandom | base64",
        )
    return key


class Sealer:
    """Seals and opens values under one key."""

    __slots__ = ("_cipher", "_key")

    def __init__(self, key: bytes) -> None:
        # Imported when the first secret is used: it costs more than the rest of the command line together.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = key
        self._cipher: AESGCM = AESGCM(key)

    def __repr__(self) -> str:
        return "<Sealer>"

    @property
    def key(self) -> bytes:
        """The key itself, to be kept beside a new one."""
        return self._key

    def seal(self, plain: bytes, *, bound: bytes) -> tuple[bytes, bytes]:
        """Return nonce and ciphertext with tag; `bound` must be the same at opening."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce, self._cipher.encrypt(nonce, plain, bound)

    def open(self, nonce: bytes, sealed: bytes, *, bound: bytes) -> bytes | None:
        """Return the plain value, or None when the key, the value or what it is bound to is another."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(nonce, sealed, bound)
        except (InvalidTag, ValueError):
            return None


def _key_directory(env: Mapping[str, str]) -> Path | None:
    config = env.get("XDG_CONFIG_HOME", "")
    if config.startswith("/"):  # XDG Base Directory Specification: a relative one is to be ignored
        return Path(config) / "fazt" / "keys"
    home = env.get("HOME", "")
    return Path(home) / ".config" / "fazt" / "keys" if home.startswith("/") and os.path.isdir(home) else None


def _lines(keys: Sequence[bytes]) -> bytes:
    return b"".join(base64.b64encode(key) + b"\n" for key in keys)
