"""Baked images on disk: one file for each live deployment and engine, made again whenever it is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from fazt.errors import StoreError
from fazt.functions.guestapi import write_image
from fazt.stores.sqlite.private import private_directory

DIRECTORY = "images"
_ABANDONED = 3600.0
"""Seconds after which a file that no live deployment names is taken for left behind; a running deploy is quicker."""


class Images:
    """The images of a data directory.

    A name holds the deployment and the engine, so an image never changes in place, and a new release of fazt finds
    none of its own and bakes again. Losing the directory loses nothing.

    Args:
        data_dir: the data directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / DIRECTORY

    @staticmethod
    def key(deployment: str, fingerprint: str) -> str:
        """Return the name of an image.

        Args:
            deployment: id of the deployment it was baked from.
            fingerprint: of the engine that runs it.
        """
        return f"{deployment}.{''.join(char for char in fingerprint if char.isalnum())[:24]}"

    def path(self, key: str) -> Path:
        """Return where an image is, or would be."""
        return self.directory / key

    def write(self, key: str, data: bytes) -> Path:
        """Write an image whole, 0600, on the disk before this returns.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.path(key)
        try:
            private_directory(self.directory)
            write_image(path, data)
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as fault:
            raise StoreError(f"cannot write the image {path}: {fault.strerror}") from fault
        return path

    def discard(self, key: str) -> None:
        """Remove an image, if it is there."""
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError:
            pass  # the next prune tries again

    def prune(self, live: Collection[str], *, now: float | None = None) -> int:
        """Remove images of deployments that are not live and old enough to belong to no running deploy.

        Args:
            live: ids of deployments to keep.
            now: seconds since the epoch.

        Returns: how many were removed. What cannot be removed is left for the next time.
        """
        cutoff = (time.time() if now is None else now) - _ABANDONED
        removed = 0
        try:
            entries = list(os.scandir(self.directory))
        except OSError:
            return 0
        for entry in entries:
            try:
                if entry.name.partition(".")[0] in live or entry.stat(follow_symlinks=False).st_mtime > cutoff:
                    continue
                os.unlink(entry.path)
                removed += 1
            except OSError:
                pass
        return removed
