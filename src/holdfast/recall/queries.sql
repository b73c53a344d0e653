-- name: standing
SELECT id, incarnation, seq, hides, user_id, forgotten FROM sessions WHERE tenant = ?1 AND session_id = ?2;

-- name: standings
SELECT session_id, incarnation, seq, hides, user_id, forgotten FROM sessions
WHERE tenant = ?1 AND (?2 IS NULL OR session_id = ?2);

-- name: add_session
INSERT INTO sessions (tenant, session_id, incarnation, seq, hides, user_id, forgotten) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id;

-- name: move_session
UPDATE sessions SET incarnation = ?2, seq = ?3, hides = ?4, user_id = ?5, forgotten = ?6 WHERE id = ?1;

-- name: drop_session
DELETE FROM sessions WHERE id = ?1;

-- name: documents_of
SELECT id FROM documents WHERE session = ?1;

-- name: documents_at
SELECT id FROM documents WHERE session = ?1 AND seq = ?2;

-- name: drop_document
DELETE FROM documents WHERE id = ?1;

-- name: drop_words
DELETE FROM words WHERE rowid = ?1;

-- name: drop_vector
DELETE FROM vectors WHERE document = ?1;

-- name: add_document
INSERT INTO documents (session, seq, piece, run_id, agent, role, time) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id;

-- name: add_words
INSERT INTO words (rowid, text) VALUES (?1, ?2);

-- name: add_vector
INSERT INTO vectors (document, vector) VALUES (?1, ?2);

-- name: all_documents
SELECT id FROM documents;

-- name: drop_remembered
DELETE FROM sessions WHERE NOT forgotten;

-- name: fact
SELECT value FROM facts WHERE name = ?1;

-- name: set_fact
INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value;

-- name: drop_fact
DELETE FROM facts WHERE name = ?1;

-- name: any_document
SELECT 1 FROM documents LIMIT 1;

-- name: any_vector
SELECT length(vector) FROM vectors LIMIT 1;

-- name: shown
SELECT s.session_id, s.incarnation, s.seq, s.hides, s.user_id, s.forgotten,
    d.seq, d.piece, d.run_id, d.agent, d.role, d.time, w.text
FROM documents d JOIN sessions s ON s.id = d.session JOIN words w ON w.rowid = d.id WHERE d.id = ?1;

-- Below: {where} stands for conditions on `s` and `d`.

-- name: by_words
SELECT d.id FROM words JOIN documents d ON d.id = words.rowid JOIN sessions s ON s.id = d.session
WHERE words MATCH :words AND {where} ORDER BY bm25(words), d.id DESC LIMIT :limit;

-- name: by_meaning
SELECT d.id, v.vector FROM sessions s CROSS JOIN documents d ON d.session = s.id JOIN vectors v ON v.document = d.id WHERE {where};
