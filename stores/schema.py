"""The ledger's schema, as small ordered migrations."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("hybrid")


@migrations()
def facts_and_events(db: Database) -> None:
    """Facts by row number (the vector index's id) and ULID; the hash-chained log; what the store was made with."""
    for statement in (
        """CREATE TABLE facts (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT, status TEXT NOT NULL, subject TEXT NOT NULL,
            relation TEXT NOT NULL, prompt TEXT NOT NULL, target_new TEXT NOT NULL, target_true TEXT, questions TEXT NOT NULL,
            aliases TEXT NOT NULL, source TEXT, author TEXT, namespace TEXT NOT NULL, valid_from TEXT, valid_to TEXT,
            created_at TEXT NOT NULL, revision INTEGER NOT NULL, supersedes TEXT, salt TEXT)""",
        "CREATE UNIQUE INDEX one_active_fact_a_key ON facts(key) WHERE status = 'active'",
        "CREATE INDEX facts_by_key ON facts(key)",
        """CREATE TABLE events (
            seq INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, fact_id TEXT,
            detail TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL)""",
        "CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
        "CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
        "CREATE TABLE identity (role TEXT PRIMARY KEY, name TEXT NOT NULL, revision TEXT NOT NULL, weights_hash TEXT NOT NULL)",
        "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ):
        db.execute(statement)


@migrations()
def embeddings(db: Database) -> None:
    """The vector of each active fact (float32, little-endian), so that the index can be rebuilt without a model."""
    db.execute("CREATE TABLE embeddings (number INTEGER PRIMARY KEY REFERENCES facts(number), vector BLOB NOT NULL)")


@migrations()
def subject_names(db: Database) -> None:
    """Words of subjects and their aliases, for lexical candidates."""
    db.execute("CREATE VIRTUAL TABLE subject_names USING fts5(words, tokenize = 'unicode61 remove_diacritics 2')")
