-- name: session
SELECT n, head FROM sessions WHERE tenant = ?1 AND session_id = ?2
-- name: add_session
INSERT INTO sessions (tenant, session_id, user_id, waiting, expires, head) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING n
-- name: set_head
UPDATE sessions SET head = ?2 WHERE n = ?1
-- name: set_head_and_indexes
UPDATE sessions SET head = ?2, user_id = ?3, waiting = ?4, expires = ?5 WHERE n = ?1

-- name: add_entry
INSERT INTO entries (id, version, commit_id, digest, entry_id, kind, run_id, agent, time, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
-- name: hide
INSERT INTO hidden SELECT * FROM entries WHERE id BETWEEN ?1 AND ?2
-- name: unlist
DELETE FROM entries WHERE id BETWEEN ?1 AND ?2
-- name: recent_entries
SELECT version, commit_id, digest FROM entries WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC
-- name: recent_hidden
SELECT version, commit_id, digest FROM hidden WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC
-- name: last_seq_of_version
SELECT max(id) FROM (SELECT max(id) AS id FROM entries WHERE id BETWEEN ?1 AND ?2 AND version = ?3
                     UNION ALL SELECT max(id) FROM hidden WHERE id BETWEEN ?1 AND ?2 AND version = ?3)
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
SELECT n, count(*), max(version) FROM state WHERE value IS NULL GROUP BY n HAVING count(*) > ?1 LIMIT ?2
-- name: drop_tombstones
DELETE FROM state WHERE n = ?1 AND value IS NULL

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
DELETE FROM graves WHERE time < ?1
-- name: expired
SELECT n, tenant, session_id, head FROM sessions WHERE expires <= ?1 LIMIT ?2

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
