-- What keeps requests out of a host or a service, told by the process that found it out to all others. Moments are
-- seconds since the epoch, 0 for none; `written_at` bounds them when the clock is set back. `revision` grows with
-- every change, so that a reader asks only for what is new.

CREATE TABLE circuits (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    open_until REAL NOT NULL DEFAULT 0,
    rolling_until REAL NOT NULL DEFAULT 0,
    cool_until REAL NOT NULL DEFAULT 0,
    manual_until REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    actor TEXT NOT NULL DEFAULT '',
    written_at REAL NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, name, role)
) STRICT;
CREATE INDEX circuits_by_revision ON circuits (revision);

CREATE TABLE counter (revision INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (0);
