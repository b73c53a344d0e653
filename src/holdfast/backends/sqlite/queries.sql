-- name: session
SELECT n, head FROM sessions WHERE tenant = ?1 AND session_id = ?2
-- name: add_session
INSERT INTO sessions (tenant, session_id, user_id, waiting, expires, head) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING n
-- name: set_head
UPDATE sessions SET head = ?2 WHERE n = ?1
-- name: set_head_and_indexes
UPDATE sessions SET head = ?2, user_id = ?3, waiting = ?4, expires = ?5 WHERE n = ?1

-- name: add_entry
INSERT INTO entries (id, version, commit_id, digest, size, entry_id, kind, run_id, agent, time, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
-- name: hide
INSERT INTO hidden SELECT * FROM entries WHERE id BETWEEN ?1 AND ?2
-- name: unlist
DELETE FROM entries WHERE id BETWEEN ?1 AND ?2
-- name: find_among_entries
WITH RECURSIVE walk(id, version, commit_id, digest, size) AS (
  SELECT id, version, commit_id, digest, size FROM entries WHERE id = ?1
  UNION ALL SELECT id, version, commit_id, digest, size FROM hidden WHERE id = ?1
  UNION ALL SELECT e.id, e.version, e.commit_id, e.digest, e.size FROM walk AS w CROSS JOIN entries AS e ON e.id = w.id - w.size WHERE e.version > ?2
  UNION ALL SELECT e.id, e.version, e.commit_id, e.digest, e.size FROM walk AS w CROSS JOIN hidden AS e ON e.id = w.id - w.size WHERE e.version > ?2
)
SELECT version, digest, id FROM walk WHERE commit_id = ?3 AND version > ?2 LIMIT 1
-- name: add_commit
INSERT INTO commits (id, commit_id, digest, seq) VALUES (?1, ?2, ?3, ?4)
-- name: find_commit
SELECT id, digest, seq FROM commits WHERE id BETWEEN ?1 AND ?2 AND commit_id = ?3
-- name: forget_commits
DELETE FROM commits WHERE id BETWEEN ?1 AND ?2

-- name: state
SELECT key, value, version FROM state WHERE n = ?1 AND value IS NOT NULL
-- name: state_since
SELECT key, value, version FROM state WHERE n = ?1 AND version > ?2
-- name: key_version
SELECT version FROM state WHERE n = ?1 AND key = ?2 AND value IS NOT NULL
-- name: put_state
INSERT INTO state (n, key, version, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET version = excluded.version, value = excluded.value
-- name: bury_state
UPDATE state SET version = ?3, value = NULL WHERE n = ?1 AND key = ?2
-- name: count_tombstones
SELECT n, count(*) FROM state INDEXED BY state_tombstones WHERE value IS NULL GROUP BY n HAVING count(*) > ?1 LIMIT ?2
-- name: newest_tombstone
SELECT max(version) FROM state INDEXED BY state_tombstones WHERE n = ?1 AND value IS NULL
-- name: drop_tombstones
DELETE FROM state INDEXED BY state_tombstones WHERE n = ?1 AND value IS NULL

-- name: put_blob
INSERT INTO blobs (n, namespace, key, type, data) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET type = excluded.type, data = excluded.data
-- name: put_blob_if_absent
INSERT INTO blobs (n, namespace, key, type, data) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING
-- name: drop_blob
DELETE FROM blobs WHERE n = ?1 AND namespace = ?2 AND key = ?3
-- name: drop_blobs
DELETE FROM blobs WHERE n = ?1 AND namespace = ?2 AND key >= ?3 AND key < ?4

-- name: erase_entries
DELETE FROM entries WHERE id BETWEEN ?1 AND ?2
-- name: erase_hidden
DELETE FROM hidden WHERE id BETWEEN ?1 AND ?2
-- name: erase_commits
DELETE FROM commits WHERE id BETWEEN ?1 AND ?2
-- name: erase_state
DELETE FROM state WHERE n = ?1
-- name: erase_blobs
DELETE FROM blobs WHERE n = ?1
-- name: erase_session
DELETE FROM sessions WHERE n = ?1
-- name: bury
INSERT OR IGNORE INTO graves (tenant, session_id, incarnation, time) VALUES (?1, ?2, ?3, ?4)
-- name: grave
SELECT 1 FROM graves WHERE tenant = ?1 AND session_id = ?2 AND incarnation = ?3
-- name: forget_graves
DELETE FROM graves WHERE (tenant, session_id, incarnation) IN
  (SELECT tenant, session_id, incarnation FROM graves INDEXED BY graves_by_time WHERE time < ?1 LIMIT ?2)
-- name: expired
SELECT n, expires, tenant, session_id, head FROM sessions WHERE expires <= ?1 AND (expires, n) > (?2, ?3) ORDER BY expires, n LIMIT 1
-- name: thin_entries
DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT ?3)
-- name: thin_hidden
DELETE FROM hidden WHERE id IN (SELECT id FROM hidden WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT ?3)
-- name: thin_blobs
DELETE FROM blobs WHERE id IN (SELECT id FROM blobs WHERE n = ?1 LIMIT ?2)
-- name: head
SELECT tenant, session_id, head FROM sessions WHERE n = ?1

-- name: copy_entries
INSERT INTO entries (id, version, entry_id, kind, run_id, agent, time, body)
SELECT ?1 + row_number() OVER (ORDER BY id), ?2, entry_id, kind, run_id, agent, time, body FROM entries WHERE id BETWEEN ?3 AND ?4
-- name: copy_state
INSERT INTO state (n, key, version, value) SELECT ?1, key, ?2, value FROM state WHERE n = ?3 AND value IS NOT NULL
-- name: copy_blobs
INSERT INTO blobs (n, namespace, key, type, data) SELECT ?1, namespace, key, type, data FROM blobs WHERE n = ?2

-- name: count_copied
SELECT count(*) FILTER (WHERE kind = 'message'), count(DISTINCT run_id), coalesce(sum(length(body)), 0) FROM entries WHERE id BETWEEN ?1 AND ?2

-- name: count_sessions
SELECT count(*) FROM sessions
-- name: count_entries
SELECT count(*) FROM entries
-- name: all_heads
SELECT n, tenant, session_id, user_id, waiting, expires, head FROM sessions
-- name: seqs
SELECT count(*), min(id), max(id) FROM (SELECT id FROM entries WHERE id BETWEEN ?1 AND ?2 UNION SELECT id FROM hidden WHERE id BETWEEN ?1 AND ?2)
-- name: orphans
SELECT 'entries', count(*) FROM entries WHERE id >> 32 NOT IN (SELECT n FROM sessions)
UNION ALL SELECT 'hidden', count(*) FROM hidden WHERE id >> 32 NOT IN (SELECT n FROM sessions)
UNION ALL SELECT 'state', count(*) FROM state WHERE n NOT IN (SELECT n FROM sessions)
UNION ALL SELECT 'blobs', count(*) FROM blobs WHERE n NOT IN (SELECT n FROM sessions)
