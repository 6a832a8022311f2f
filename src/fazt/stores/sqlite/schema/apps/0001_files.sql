-- Content of deployments. Nothing here says which deployment is live: the policy database does.

CREATE TABLE stages (
    deployment TEXT PRIMARY KEY,
    app TEXT NOT NULL,
    touched_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE files (
    deployment TEXT NOT NULL REFERENCES stages (deployment) ON DELETE CASCADE,
    path TEXT NOT NULL,
    blob INTEGER NOT NULL REFERENCES blobs (id),
    size INTEGER NOT NULL,
    PRIMARY KEY (deployment, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_blob ON files (blob);
