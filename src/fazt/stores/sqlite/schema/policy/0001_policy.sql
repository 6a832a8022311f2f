-- What decides: rules, secrets, limits, apps. The scope '' is the global one, never NULL, so unique keys hold for it.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row, raised by one in every transaction that changes anything below; watched by every process.
-- Changes at or below `pruned` are no longer in the feed.
CREATE TABLE revision (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL,
    pruned INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (1, 1, 1);

CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL
) STRICT;
CREATE INDEX changes_by_revision ON changes (revision);

CREATE TABLE activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ts REAL NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    weight INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    details TEXT NOT NULL
) STRICT;

CREATE TABLE rules (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('allow', 'deny')),
    scheme TEXT NOT NULL CHECK (scheme IN ('http', 'https', '*')),
    pattern TEXT NOT NULL CHECK (pattern <> ''),
    port INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    methods TEXT NOT NULL,
    path TEXT NOT NULL,
    path_encoded_slash INTEGER NOT NULL,
    rate INTEGER NOT NULL CHECK (rate >= 0),
    burst INTEGER NOT NULL CHECK (burst >= 0),
    timeout_ms INTEGER NOT NULL CHECK (timeout_ms >= 0),
    max_response INTEGER NOT NULL CHECK (max_response >= 0),
    cache_ttl INTEGER NOT NULL CHECK (cache_ttl >= 0),
    inject TEXT NOT NULL,
    addresses TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    CHECK (action = 'deny' OR (scheme <> '*' AND port > 0))
) STRICT;
CREATE UNIQUE INDEX rules_by_key ON rules (scope, pattern, action, scheme, port, methods, path);

CREATE TABLE secrets (
    scope TEXT NOT NULL,
    name TEXT NOT NULL CHECK (name <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('bearer', 'header', 'query')),
    key TEXT NOT NULL,
    domains TEXT NOT NULL,
    any_domain INTEGER NOT NULL,
    version INTEGER NOT NULL,
    nonce BLOB NOT NULL,
    sealed BLOB NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE limits (
    scope TEXT NOT NULL,
    path TEXT NOT NULL,
    value INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (scope, path)
) STRICT, WITHOUT ROWID;

-- A removed app keeps its row, so that its id is never given again; its name is free.
CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at REAL NOT NULL,
    retired_at REAL,
    deployment TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX apps_by_name ON apps (name) WHERE retired_at IS NULL;

CREATE TABLE env (
    app TEXT NOT NULL REFERENCES apps (id),
    name TEXT NOT NULL CHECK (name <> ''),
    value TEXT NOT NULL,
    updated_at REAL NOT NULL,
    PRIMARY KEY (app, name)
) STRICT, WITHOUT ROWID;

-- The files of a deployment stand in apps.db under its id; which deployment is live is decided here alone.
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES apps (id),
    created_at REAL NOT NULL,
    actor TEXT NOT NULL,
    file_count INTEGER NOT NULL,
    total_bytes INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    image_key TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX deployments_by_app ON deployments (app);
