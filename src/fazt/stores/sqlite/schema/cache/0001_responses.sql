-- Stored responses. A row is found by a salted digest of its URL, so that no query string, which may hold a credential,
-- is written down; app and host stand beside it for purging. `head` is JSON, `sum` the CRC-32 of head and body.

CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    place BLOB NOT NULL,
    selector BLOB NOT NULL,
    app TEXT NOT NULL,
    host TEXT NOT NULL,
    size INTEGER NOT NULL,
    used REAL NOT NULL,
    head TEXT NOT NULL,
    sum INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_place ON entries (place, selector);
CREATE INDEX entries_by_use ON entries (used);
CREATE INDEX entries_by_host ON entries (host, app);

-- When a place was last emptied: what was asked for before that is not kept, in no process.
CREATE TABLE forgotten (
    place BLOB PRIMARY KEY,
    at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE salt (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value BLOB NOT NULL
) STRICT;

CREATE TABLE total (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    items INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO total VALUES (1, 0, 0);

CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    UPDATE total SET items = items + 1, bytes = bytes + new.size;
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    UPDATE total SET items = items - 1, bytes = bytes - old.size;
END;
