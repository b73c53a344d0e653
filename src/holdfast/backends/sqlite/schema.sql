-- Schema 1. An entry's rowid is its session's number and its seq in one integer (number << 32 | seq): a session's log is one
-- contiguous range of the table, so "the newest n" is a range scan and appending needs no second index.

CREATE TABLE sessions (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,  -- grows with creation: the order of lists
    tenant     TEXT NOT NULL,
    session_id TEXT NOT NULL,
    user_id    TEXT,
    waiting    INTEGER NOT NULL DEFAULT 0,
    expires    INTEGER,                            -- unix microseconds
    head       BLOB NOT NULL,                      -- JSON
    UNIQUE (tenant, session_id)
);
CREATE INDEX sessions_by_tenant ON sessions (tenant, n);
CREATE INDEX sessions_by_user ON sessions (tenant, user_id, n) WHERE user_id IS NOT NULL;
CREATE INDEX sessions_waiting ON sessions (tenant, n) WHERE waiting;
CREATE INDEX sessions_expiring ON sessions (expires) WHERE expires IS NOT NULL;

CREATE TABLE entries (
    id        INTEGER PRIMARY KEY,                 -- n << 32 | seq
    version   INTEGER NOT NULL,
    commit_id TEXT,                                -- on the last entry of its commit,
    digest    BLOB,
    size      INTEGER,                             -- with the number of its entries: the commit before ends so many before this one
    entry_id  TEXT NOT NULL,
    kind      TEXT NOT NULL,
    run_id    TEXT,
    agent     TEXT,
    time      INTEGER NOT NULL,                    -- unix microseconds
    body      BLOB NOT NULL                        -- JSON
);
CREATE INDEX entries_of_run ON entries (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX entries_rare ON entries (kind, id) WHERE kind <> 'message';

-- Hidden entries live apart, so that no window ever has to step over them.
CREATE TABLE hidden (
    id        INTEGER PRIMARY KEY,
    version   INTEGER NOT NULL,
    commit_id TEXT,
    digest    BLOB,
    size      INTEGER,
    entry_id  TEXT NOT NULL,
    kind      TEXT NOT NULL,
    run_id    TEXT,
    agent     TEXT,
    time      INTEGER NOT NULL,
    body      BLOB NOT NULL
);

-- Commits that wrote no entry.
CREATE TABLE commits (
    id        INTEGER PRIMARY KEY,                 -- n << 32 | version
    commit_id TEXT NOT NULL,
    digest    BLOB NOT NULL,
    seq       INTEGER NOT NULL
);

CREATE TABLE state (
    n       INTEGER NOT NULL,
    key     TEXT NOT NULL,
    version INTEGER NOT NULL,
    value   BLOB,                                  -- JSON; NULL: deleted
    PRIMARY KEY (n, key)
) WITHOUT ROWID;
CREATE INDEX state_tombstones ON state (n) WHERE value IS NULL;

CREATE TABLE blobs (
    id        INTEGER PRIMARY KEY,
    n         INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    type      TEXT NOT NULL,
    data      BLOB NOT NULL,
    UNIQUE (n, namespace, key)
);

-- Ended lives: a late commit that would create one of them again is refused.
CREATE TABLE graves (
    tenant      TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    PRIMARY KEY (tenant, session_id, incarnation)
) WITHOUT ROWID;
CREATE INDEX graves_by_time ON graves (time);

-- For people with a sqlite3 shell: every visible message of the living sessions, readable; one session is one range of the log.
CREATE VIEW messages AS
SELECT s.tenant, s.session_id, e.id & 4294967295 AS seq, datetime(e.time / 1000000, 'unixepoch') AS time, e.run_id,
       json_extract(CAST(e.body AS TEXT), '$.role') AS role,
       (SELECT group_concat(coalesce(json_extract(p.value, '$.content'), json_extract(p.value, '$.response'),
                                     json_extract(p.value, '$.name') || '(' || coalesce(json_extract(p.value, '$.arguments'), '') || ')'), char(10))
          FROM json_each(CAST(e.body AS TEXT), '$.parts') AS p) AS text,
       CAST(e.body AS TEXT) AS body
  FROM sessions AS s CROSS JOIN entries AS e
 WHERE e.id BETWEEN s.n << 32 AND s.n << 32 | 4294967295 AND +e.kind = 'message' AND json_valid(CAST(e.body AS TEXT))
   AND (s.expires IS NULL OR s.expires > CAST(strftime('%s', 'now') AS INTEGER) * 1000000);
