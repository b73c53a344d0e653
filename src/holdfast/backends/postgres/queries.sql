-- name: facts
SELECT done, n, rev, head, seen_version, seen_digest, seen_seq, buried, versions FROM {schema}.commit_1
-- name: begin_locked
SET LOCAL idle_in_transaction_session_timeout = '10s'
-- name: source
SELECT s.head, s.n, count(e.seq), count(*) FILTER (WHERE e.kind = 'message'), count(DISTINCT e.run_id), coalesce(sum(octet_length(e.body)), 0)::bigint
  FROM {schema}.sessions s LEFT JOIN {schema}.entries e ON e.n = s.n AND e.seq <= %(upto)s
 WHERE s.tenant = %(tenant)s AND s.session_id = %(session)s GROUP BY s.n

-- name: list
SELECT n, session_id, head, expires IS NULL OR expires > %(now)s FROM {schema}.sessions
 WHERE tenant = %(tenant)s AND n < %(below)s ORDER BY n DESC LIMIT %(most)s
-- name: list_of_user
SELECT n, session_id, head, expires IS NULL OR expires > %(now)s FROM {schema}.sessions
 WHERE tenant = %(tenant)s AND user_id = %(user)s AND n < %(below)s ORDER BY n DESC LIMIT %(most)s
-- name: list_waiting
SELECT n, session_id, head, expires IS NULL OR expires > %(now)s FROM {schema}.sessions
 WHERE tenant = %(tenant)s AND waiting AND n < %(below)s ORDER BY n DESC LIMIT %(most)s

-- name: sweep
SELECT {schema}.sweep_1(%(now)s, %(most)s)
-- name: with_tombstones
SELECT n FROM {schema}.state WHERE gone GROUP BY n HAVING count(*) > %(kept)s LIMIT %(most)s
-- name: lock
SELECT tenant, session_id, head FROM {schema}.sessions WHERE n = %(n)s FOR NO KEY UPDATE
-- name: drop_tombstones
WITH dropped AS (DELETE FROM {schema}.state WHERE n = %(n)s AND gone RETURNING version) SELECT max(version) FROM dropped
-- name: raise_floor
UPDATE {schema}.sessions SET head = %(head)b, floor = %(floor)s, rev = rev + 1 WHERE n = %(n)s
-- name: forget_graves
WITH old AS (
  DELETE FROM {schema}.graves WHERE ctid = ANY (ARRAY(SELECT ctid FROM {schema}.graves WHERE time < %(before)s LIMIT %(most)s)) RETURNING 1
) SELECT count(*) FROM old

-- name: watch_key
SELECT {schema}.watch_key_1(%(tenant)s, %(session)s)

-- name: schema_there
SELECT to_regnamespace('{schema}') IS NOT NULL, to_regclass('{schema}.meta') IS NOT NULL,
       EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{schema}')), current_setting('server_encoding')
-- name: version
SELECT version, oldest FROM {schema}.meta
-- name: create_schema
CREATE SCHEMA IF NOT EXISTS {schema}
-- name: set_version
INSERT INTO {schema}.meta (version, oldest) VALUES (%(version)s, %(oldest)s)
-- name: raise_version
UPDATE {schema}.meta SET version = %(version)s, oldest = %(oldest)s
-- name: lock_schema
SELECT pg_advisory_xact_lock(hashtextextended('holdfast schema {schema}', 4846))

-- name: sizes
SELECT current_setting('server_version'), (SELECT count(*) FROM {schema}.sessions), (SELECT count(*) FROM {schema}.entries),
       (SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE relnamespace = to_regnamespace('{schema}') AND relkind = 'r')
-- name: orphans
SELECT 'entries', count(*) FROM {schema}.entries t WHERE NOT EXISTS (SELECT FROM {schema}.sessions s WHERE s.n = t.n)
UNION ALL SELECT 'hidden', count(*) FROM {schema}.hidden t WHERE NOT EXISTS (SELECT FROM {schema}.sessions s WHERE s.n = t.n)
UNION ALL SELECT 'commits', count(*) FROM {schema}.commits t WHERE NOT EXISTS (SELECT FROM {schema}.sessions s WHERE s.n = t.n)
UNION ALL SELECT 'state', count(*) FROM {schema}.state t WHERE NOT EXISTS (SELECT FROM {schema}.sessions s WHERE s.n = t.n)
UNION ALL SELECT 'blobs', count(*) FROM {schema}.blobs t WHERE NOT EXISTS (SELECT FROM {schema}.sessions s WHERE s.n = t.n)
-- name: all_heads
SELECT s.n, s.tenant, s.session_id, s.head, s.incarnation, s.floor, s.user_id, s.waiting, s.expires, l.entries, l.first, l.last
  FROM {schema}.sessions s CROSS JOIN LATERAL (
    SELECT count(*) AS entries, coalesce(min(seq), 0) AS first, coalesce(max(seq), 0) AS last
      FROM (SELECT seq FROM {schema}.entries e WHERE e.n = s.n UNION SELECT seq FROM {schema}.hidden h WHERE h.n = s.n) u) l
 WHERE s.n > %(after)s ORDER BY s.n LIMIT %(most)s
