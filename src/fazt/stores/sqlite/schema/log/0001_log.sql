-- One row per counted call, one per console line. Trimmed from the oldest end only, so ids have no gaps and are never
-- given twice. Every index and column is paid for in every call, so there are few: `extra` is JSON, NULL for most calls.

CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    call_id TEXT NOT NULL,
    ts REAL NOT NULL,
    app TEXT NOT NULL,
    door TEXT NOT NULL,
    method TEXT NOT NULL,
    scheme TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    path TEXT NOT NULL,
    status INTEGER,
    code TEXT,
    reason TEXT,
    duration_ms REAL NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    cache TEXT NOT NULL,
    rule_id TEXT,
    revision INTEGER NOT NULL,
    address TEXT,
    extra TEXT
);
CREATE INDEX calls_by_call_id ON calls (call_id);
CREATE INDEX calls_failed ON calls (id) WHERE code IS NOT NULL OR status >= 400;

CREATE TABLE lines (
    id INTEGER PRIMARY KEY,
    ts REAL NOT NULL,
    app TEXT NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    invocation TEXT NOT NULL
);
CREATE INDEX lines_by_app ON lines (app, id);

-- What was thrown away because the buffer was full.
CREATE TABLE drops (
    id INTEGER PRIMARY KEY,
    ts REAL NOT NULL,
    kind TEXT NOT NULL,
    count INTEGER NOT NULL
);
