-- How far each session is indexed.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    hides INTEGER NOT NULL,
    user_id TEXT,
    forgotten INTEGER NOT NULL,
    UNIQUE (tenant, session_id)
);
CREATE INDEX sessions_by_owner ON sessions (tenant, user_id);

-- Pieces of messages; the text of each is in `words` under the same number.
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (id),
    seq INTEGER NOT NULL,
    piece INTEGER NOT NULL,
    run_id TEXT,
    agent TEXT,
    role TEXT NOT NULL,
    time INTEGER NOT NULL,
    UNIQUE (session, seq, piece)
);

-- Their vectors: float32, little-endian, of length 1.
CREATE TABLE vectors (document INTEGER PRIMARY KEY, vector BLOB NOT NULL);

CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = "porter unicode61 remove_diacritics 2");
INSERT INTO words (words, rank) VALUES ('secure-delete', 1);

-- `model`: what the vectors were made with; no row for words alone.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
