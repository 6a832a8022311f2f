"""The admin token: made once, private, never shown by accident."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fazt.errors import StoreError
from fazt.stores.sqlite import Store


def test_the_token_is_made_once_and_only_its_owner_reads_it(store: Store, data: Path) -> None:
    first = store.admin_token()
    again = store.admin_token()
    assert (first.created, again.created) == (True, False)
    assert first.value == again.value and len(first.value) > 40
    assert stat.S_IMODE((data / "admin.token").stat().st_mode) == 0o600
    assert first.value not in repr(first)


@pytest.mark.parametrize("content", ["", "short"])
def test_a_file_without_a_token_is_an_error(store: Store, data: Path, content: str) -> None:
    (data / "admin.token").touch(0o600)
    (data / "admin.token").write_text(content)
    with pytest.raises(StoreError, match="no usable"):
        store.admin_token()


def test_a_token_that_others_may_read_is_refused(store: Store, data: Path) -> None:
    store.admin_token()
    (data / "admin.token").chmod(0o644)
    with pytest.raises(StoreError, match="others may read"):
        store.admin_token()
