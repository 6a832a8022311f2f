-- Telemetry, where a `sqlite` sink is configured: one row of net_request for every trip to the network and one for
-- every call, one row of http_events for every call. Rows go at the old end only.

CREATE TABLE net_request (
    run_id TEXT NOT NULL,
    ts TEXT NOT NULL,
    event_type TEXT NOT NULL,
    request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    status_code INTEGER NOT NULL,
    status TEXT NOT NULL,
    elapsed_ms REAL NOT NULL,
    ttfb_ms REAL,
    cache TEXT NOT NULL,
    from_cache INTEGER NOT NULL,
    http_version TEXT NOT NULL,
    http2 INTEGER NOT NULL,
    bytes_read INTEGER NOT NULL,
    bytes_written INTEGER NOT NULL,
    error_code TEXT,
    reason TEXT,
    error_message TEXT,
    attempt INTEGER NOT NULL,
    hop INTEGER NOT NULL,
    redirect_target TEXT,
    service TEXT,
    role TEXT,
    app TEXT NOT NULL,
    door TEXT NOT NULL,
    rule_id TEXT,
    retries INTEGER NOT NULL,
    retry_after REAL,
    waited_ms REAL NOT NULL,
    breaker TEXT NOT NULL
);
CREATE INDEX net_request_by_request_id ON net_request (request_id);

CREATE TABLE http_events (
    run_id TEXT NOT NULL,
    ts TEXT NOT NULL,
    host TEXT NOT NULL,
    role TEXT,
    method TEXT NOT NULL,
    status INTEGER NOT NULL,
    url_hash TEXT NOT NULL,
    from_cache INTEGER NOT NULL,
    revalidated INTEGER NOT NULL,
    stale INTEGER NOT NULL,
    retry_count INTEGER NOT NULL,
    retry_after_s REAL,
    rate_delay_ms REAL NOT NULL,
    breaker_state TEXT,
    breaker_recorded INTEGER NOT NULL,
    elapsed_ms REAL NOT NULL,
    error TEXT
);
