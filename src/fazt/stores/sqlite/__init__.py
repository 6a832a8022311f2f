"""The default store: SQLite files in the data directory."""

from fazt.stores.sqlite.changes import Activity, Change, Feed, Kind
from fazt.stores.sqlite.log_reader import HostStats
from fazt.stores.sqlite.log_rows import LoggedCall, LogLine
from fazt.stores.sqlite.secret_rows import NewSecret, SecretInfo
from fazt.stores.sqlite.source import PolicySource
from fazt.stores.sqlite.store import Store

__all__ = [
    "Activity",
    "Change",
    "Feed",
    "HostStats",
    "Kind",
    "LogLine",
    "LoggedCall",
    "NewSecret",
    "PolicySource",
    "SecretInfo",
    "Store",
]
