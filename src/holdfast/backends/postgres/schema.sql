-- Schema 1. Names compare by their bytes (COLLATE "C"); bodies, values and heads are bytes. What ends in _1 is called by code that knows
-- schema 1, and stays as long as such code may run.

CREATE TABLE {schema}.meta (
    version integer NOT NULL,                      -- of this schema
    oldest  integer NOT NULL                       -- the oldest schema whose code may write here
);

CREATE TABLE {schema}.sessions (
    n              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- grows with creation: the order of lists
    tenant         text COLLATE "C" NOT NULL,
    session_id     text COLLATE "C" NOT NULL,
    rev            bigint NOT NULL DEFAULT 1,      -- grows with every change of the head: (n, rev) names one head
    incarnation    bigint NOT NULL,
    floor          bigint NOT NULL DEFAULT 0,
    user_id        text COLLATE "C",
    waiting        boolean NOT NULL DEFAULT false,
    expires        bigint,                         -- unix microseconds
    expires_about  bigint GENERATED ALWAYS AS (expires >> 30) STORED,  -- in steps of 18 minutes: an index on it stays out of most commits
    head           bytea NOT NULL,                 -- JSON
    UNIQUE (tenant, session_id)
) WITH (fillfactor = 70);
CREATE INDEX sessions_by_tenant ON {schema}.sessions (tenant, n);
CREATE INDEX sessions_by_user ON {schema}.sessions (tenant, user_id, n) WHERE user_id IS NOT NULL;
CREATE INDEX sessions_waiting ON {schema}.sessions (tenant, n) WHERE waiting;
CREATE INDEX sessions_expiring ON {schema}.sessions (expires_about, n) WHERE expires_about IS NOT NULL;

CREATE TABLE {schema}.entries (
    n        bigint NOT NULL,
    seq      bigint NOT NULL,
    version  bigint NOT NULL,
    time     bigint NOT NULL,                      -- unix microseconds
    entry_id text COLLATE "C" NOT NULL,
    kind     text COLLATE "C" NOT NULL,
    run_id   text COLLATE "C",
    agent    text COLLATE "C",
    body     bytea NOT NULL,                       -- JSON
    PRIMARY KEY (n, seq)
);
CREATE INDEX entries_of_run ON {schema}.entries (n, run_id, seq) WHERE run_id IS NOT NULL;
CREATE INDEX entries_rare ON {schema}.entries (n, kind, seq) WHERE kind <> 'message';

-- Hidden entries live apart, so that no window ever has to step over them.
CREATE TABLE {schema}.hidden (LIKE {schema}.entries INCLUDING STORAGE, PRIMARY KEY (n, seq));

CREATE TABLE {schema}.commits (
    n         bigint NOT NULL,
    version   bigint NOT NULL,
    seq       bigint NOT NULL,
    commit_id text COLLATE "C" NOT NULL,
    digest    bytea NOT NULL,
    PRIMARY KEY (n, version)
);

CREATE TABLE {schema}.state (
    n       bigint NOT NULL,
    key     text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    gone    boolean NOT NULL,                      -- a deletion's tombstone
    value   bytea,                                 -- JSON
    PRIMARY KEY (n, key)
) WITH (fillfactor = 80);
CREATE INDEX state_tombstones ON {schema}.state (n) WHERE gone;

CREATE TABLE {schema}.blobs (
    n         bigint NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key       text COLLATE "C" NOT NULL,
    type      text COLLATE "C" NOT NULL,
    data      bytea NOT NULL,
    PRIMARY KEY (n, namespace, key)
);

-- Ended lives: a late commit that would create one of them again is refused.
CREATE TABLE {schema}.graves (
    tenant      text COLLATE "C" NOT NULL,
    session_id  text COLLATE "C" NOT NULL,
    incarnation bigint NOT NULL,
    time        bigint NOT NULL,
    PRIMARY KEY (tenant, session_id, incarnation)
);
CREATE INDEX graves_by_time ON {schema}.graves (time);

-- What a watcher of a session holds a shared lock on, and hears of.
CREATE FUNCTION {schema}.watch_key_1(tenant_ text, session_ text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT pg_catalog.hashtextextended('{schema}' || chr(31) || tenant_ || chr(31) || session_, 4846)
$$;

-- Remove what a session holds, and remember that this life of it has ended.
CREATE FUNCTION {schema}.empty_1(n_ bigint, tenant_ text, session_ text, incarnation_ bigint, time_ bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {schema}.entries WHERE n = n_;
    DELETE FROM {schema}.hidden WHERE n = n_;
    DELETE FROM {schema}.commits WHERE n = n_;
    DELETE FROM {schema}.state WHERE n = n_;
    DELETE FROM {schema}.blobs WHERE n = n_;
    INSERT INTO {schema}.graves VALUES (tenant_, session_, incarnation_, time_) ON CONFLICT DO NOTHING;
END $$;

-- Apply a commit that was judged upon the head (n_, rev_), or upon there being none, if that is still so; otherwise change nothing and say
-- what is so. The session is locked from here to the end of the transaction. rev_ 0 is no head's: it only locks and asks.
CREATE FUNCTION {schema}.commit_1(
    tenant_ text, session_ text, n_ bigint, rev_ bigint, commit_ text, base_ bigint,
    waits_ boolean DEFAULT true,
    creates_ bigint DEFAULT NULL,                  -- the incarnation this commit would create
    expected_keys_ text[] DEFAULT '{}', expected_versions_ bigint[] DEFAULT '{}',
    head_ bytea DEFAULT NULL,                      -- NULL: the session goes
    version_ bigint DEFAULT NULL, seq_ bigint DEFAULT NULL, incarnation_ bigint DEFAULT NULL, floor_ bigint DEFAULT 0,
    user_ text DEFAULT NULL, waiting_ boolean DEFAULT false, expires_ bigint DEFAULT NULL,
    digest_ bytea DEFAULT NULL,                    -- NULL: not one to be recognised
    ends_ boolean DEFAULT false, anew_ boolean DEFAULT false,  -- the life there ends; what follows is another session
    time_ bigint DEFAULT NULL,                     -- of the end
    source_ bigint DEFAULT NULL, upto_ bigint DEFAULT NULL,
    drop_spaces_ text[] DEFAULT '{}', drop_first_ text[] DEFAULT '{}', drop_last_ text[] DEFAULT '{}',
    blob_spaces_ text[] DEFAULT '{}', blob_keys_ text[] DEFAULT '{}', blob_types_ text[] DEFAULT '{}', blob_data_ bytea[] DEFAULT '{}',
    blob_absent_ boolean[] DEFAULT '{}',
    put_keys_ text[] DEFAULT '{}', put_values_ bytea[] DEFAULT '{}', bury_keys_ text[] DEFAULT '{}',
    -- an array left out is one of NULLs
    entry_ids_ text[] DEFAULT '{}', entry_kinds_ text[] DEFAULT '{}', entry_runs_ text[] DEFAULT '{}', entry_agents_ text[] DEFAULT '{}',
    entry_times_ bigint[] DEFAULT '{}', entry_bodies_ bytea[] DEFAULT '{}',
    hide_first_ bigint[] DEFAULT '{}', hide_last_ bigint[] DEFAULT '{}'
) RETURNS TABLE (done boolean, n bigint, rev bigint, head bytea, seen_version bigint, seen_digest bytea, seen_seq bigint, buried boolean, versions bigint[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    old record;
    at bigint;
BEGIN
    done := false;
    buried := false;
    IF waits_ THEN
        SELECT s.n, s.rev, s.head, s.incarnation INTO old FROM {schema}.sessions s
         WHERE s.tenant = tenant_ AND s.session_id = session_ FOR NO KEY UPDATE;
    ELSE
        SELECT s.n, s.rev, s.head, s.incarnation INTO old FROM {schema}.sessions s
         WHERE s.tenant = tenant_ AND s.session_id = session_ FOR NO KEY UPDATE NOWAIT;
    END IF;
    n := old.n;
    rev := old.rev;
    done := n IS NOT DISTINCT FROM n_ AND rev IS NOT DISTINCT FROM rev_;
    IF n IS NOT NULL AND NOT (done AND anew_) THEN
        SELECT c.version, c.digest, c.seq INTO seen_version, seen_digest, seen_seq FROM {schema}.commits c
         WHERE c.n = old.n AND c.version > base_ AND c.commit_id = commit_ LIMIT 1;
        done := done AND seen_version IS NULL;
    END IF;
    IF creates_ IS NOT NULL THEN
        buried := EXISTS (SELECT FROM {schema}.graves g WHERE g.tenant = tenant_ AND g.session_id = session_ AND g.incarnation = creates_);
        done := done AND NOT buried;
    END IF;
    IF cardinality(expected_keys_) > 0 THEN
        versions := ARRAY(
            SELECT coalesce((SELECT s.version FROM {schema}.state s WHERE s.n = old.n AND s.key = k.key AND NOT s.gone), 0)
              FROM unnest(expected_keys_) WITH ORDINALITY AS k (key, place) ORDER BY k.place);
        done := done AND versions = expected_versions_;
    END IF;
    IF NOT done THEN
        head := old.head;
        RETURN NEXT;
        RETURN;
    END IF;

    IF ends_ AND n IS NOT NULL THEN
        PERFORM {schema}.empty_1(old.n, tenant_, session_, old.incarnation, time_);
        IF head_ IS NULL OR anew_ THEN
            DELETE FROM {schema}.sessions s WHERE s.n = old.n;
            n := NULL;
        END IF;
    END IF;
    IF head_ IS NULL THEN
        PERFORM {schema}.tell_1(tenant_, session_);
        RETURN NEXT;
        RETURN;
    END IF;
    IF n IS NULL THEN
        INSERT INTO {schema}.sessions (tenant, session_id, incarnation, floor, user_id, waiting, expires, head)
        VALUES (tenant_, session_, incarnation_, floor_, user_, waiting_, expires_, head_) ON CONFLICT DO NOTHING RETURNING sessions.n INTO n;
        IF n IS NULL THEN  -- somebody was quicker, and nothing has been written here
            done := false;
            SELECT s.n, s.rev, s.head INTO n, rev, head FROM {schema}.sessions s WHERE s.tenant = tenant_ AND s.session_id = session_;
            RETURN NEXT;
            RETURN;
        END IF;
        rev := 1;
    ELSE
        UPDATE {schema}.sessions s
           SET head = head_, rev = s.rev + 1, incarnation = incarnation_, floor = floor_, user_id = user_, waiting = waiting_, expires = expires_
         WHERE s.n = old.n;
        rev := old.rev + 1;
    END IF;
    at := n;

    IF source_ IS NOT NULL THEN
        INSERT INTO {schema}.entries (n, seq, version, time, entry_id, kind, run_id, agent, body)
        SELECT at, row_number() OVER (ORDER BY e.seq), version_, e.time, e.entry_id, e.kind, e.run_id, e.agent, e.body
          FROM {schema}.entries e WHERE e.n = source_ AND e.seq <= upto_;
        INSERT INTO {schema}.state (n, key, version, gone, value)
        SELECT at, s.key, version_, false, s.value FROM {schema}.state s WHERE s.n = source_ AND NOT s.gone;
        INSERT INTO {schema}.blobs (n, namespace, key, type, data)
        SELECT at, b.namespace, b.key, b.type, b.data FROM {schema}.blobs b WHERE b.n = source_;
    END IF;
    IF cardinality(drop_spaces_) > 0 THEN
        DELETE FROM {schema}.blobs b USING unnest(drop_spaces_, drop_first_, drop_last_) AS d (namespace, first, last)
         WHERE b.n = at AND b.namespace = d.namespace AND b.key >= d.first AND b.key <= d.last;
    END IF;
    FOR i IN 1 .. cardinality(blob_keys_) LOOP  -- one by one: a commit may name a blob twice
        IF blob_absent_[i] THEN
            INSERT INTO {schema}.blobs VALUES (at, blob_spaces_[i], blob_keys_[i], blob_types_[i], blob_data_[i]) ON CONFLICT DO NOTHING;
        ELSE
            INSERT INTO {schema}.blobs VALUES (at, blob_spaces_[i], blob_keys_[i], blob_types_[i], blob_data_[i])
            ON CONFLICT (n, namespace, key) DO UPDATE SET type = excluded.type, data = excluded.data;
        END IF;
    END LOOP;
    IF cardinality(put_keys_) > 0 THEN
        INSERT INTO {schema}.state (n, key, version, gone, value)
        SELECT at, p.key, version_, false, p.value FROM unnest(put_keys_, put_values_) AS p (key, value)
        ON CONFLICT (n, key) DO UPDATE SET version = excluded.version, gone = false, value = excluded.value;
    END IF;
    IF cardinality(bury_keys_) > 0 THEN
        UPDATE {schema}.state s SET version = version_, gone = true, value = NULL WHERE s.n = at AND s.key = ANY (bury_keys_);
    END IF;
    IF cardinality(entry_ids_) > 0 THEN
        INSERT INTO {schema}.entries (n, seq, version, time, entry_id, kind, run_id, agent, body)
        SELECT at, seq_ - cardinality(entry_ids_) + e.place, version_, e.time, e.id, e.kind, e.run, e.agent, e.body
          FROM unnest(entry_ids_, entry_kinds_, entry_runs_, entry_agents_, entry_times_, entry_bodies_)
               WITH ORDINALITY AS e (id, kind, run, agent, time, body, place);
    END IF;
    IF cardinality(hide_first_) > 0 THEN
        WITH found AS (
            DELETE FROM {schema}.entries e USING unnest(hide_first_, hide_last_) AS h (first, last)
             WHERE e.n = at AND e.seq >= h.first AND e.seq <= h.last RETURNING e.*)
        INSERT INTO {schema}.hidden SELECT * FROM found;
    END IF;
    IF digest_ IS NOT NULL THEN
        INSERT INTO {schema}.commits (n, version, seq, commit_id, digest) VALUES (at, version_, seq_, commit_, digest_);
        IF version_ % 64 = 0 THEN
            DELETE FROM {schema}.commits c WHERE c.n = at AND c.version < version_ - 1024;
        END IF;
    END IF;
    PERFORM {schema}.tell_1(tenant_, session_);
    RETURN NEXT;
END $$;

-- Notify whoever watches: they hold a shared lock, so that nobody but them makes a commit pay for a notification.
CREATE FUNCTION {schema}.tell_1(tenant_ text, session_ text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place bigint := {schema}.watch_key_1(tenant_, session_);
BEGIN
    IF NOT pg_try_advisory_xact_lock(place) THEN
        PERFORM pg_notify('{channel}', place::text);
    END IF;
END $$;

-- Remove up to most_ sessions that have expired by now_; how many.
CREATE FUNCTION {schema}.sweep_1(now_ bigint, most_ integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    old record;
    gone integer := 0;
BEGIN
    FOR old IN
        SELECT s.n, s.tenant, s.session_id, s.incarnation FROM {schema}.sessions s
         WHERE s.expires_about <= now_ >> 30 AND s.expires <= now_ ORDER BY s.expires_about, s.n LIMIT most_ FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM {schema}.empty_1(old.n, old.tenant, old.session_id, old.incarnation, now_);
        DELETE FROM {schema}.sessions s WHERE s.n = old.n;
        gone := gone + 1;
    END LOOP;
    RETURN gone;
END $$;

-- For people with psql: every visible message of the living sessions.
CREATE VIEW {schema}.messages AS
SELECT s.tenant, s.session_id, e.seq, to_timestamp(e.time / 1000000.0) AS time, e.run_id, e.agent, convert_from(e.body, 'UTF8') AS body
  FROM {schema}.sessions s JOIN {schema}.entries e ON e.n = s.n
 WHERE e.kind = 'message' AND (s.expires IS NULL OR s.expires > extract(epoch FROM now()) * 1000000);
