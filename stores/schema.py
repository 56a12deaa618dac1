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


@migrations()
def consolidation(db: Database) -> None:
    """What is known of facts' stability, the generations, which facts they hold, and where copies of them went."""
    for statement in (
        "CREATE TABLE holds (fact_id TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('pin', 'hold')))",
        "CREATE TABLE usage (fact_id TEXT PRIMARY KEY, answered INTEGER NOT NULL DEFAULT 0, confirmed INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE runs (number INTEGER PRIMARY KEY, at TEXT NOT NULL)",
        "CREATE TABLE run_facts (run INTEGER NOT NULL REFERENCES runs(number), fact_id TEXT NOT NULL, PRIMARY KEY (run, fact_id)) WITHOUT ROWID",
        "CREATE TABLE marks (fact_id TEXT PRIMARY KEY, run INTEGER NOT NULL, reason TEXT NOT NULL, settings TEXT NOT NULL)",
        """CREATE TABLE generations (
            number INTEGER PRIMARY KEY, weights_hash TEXT NOT NULL, base_hash TEXT NOT NULL, manifest TEXT, at TEXT NOT NULL, actor TEXT NOT NULL,
            kept INTEGER NOT NULL DEFAULT 1, live INTEGER NOT NULL DEFAULT 0)""",
        "CREATE UNIQUE INDEX one_live_generation ON generations(live) WHERE live = 1",
        """CREATE TABLE generation_facts (
            generation INTEGER NOT NULL REFERENCES generations(number), fact_id TEXT NOT NULL, passed INTEGER NOT NULL,
            PRIMARY KEY (generation, fact_id)) WITHOUT ROWID""",
        "CREATE INDEX generations_of_a_fact ON generation_facts(fact_id)",
        "CREATE TABLE value_keys (fact_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (fact_id, key)) WITHOUT ROWID",
        "CREATE TABLE exports (number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, format TEXT NOT NULL, path TEXT NOT NULL, at TEXT NOT NULL)",
        """CREATE TRIGGER forgotten_facts_leave_no_trace AFTER UPDATE OF status ON facts WHEN NEW.status = 'forgotten' BEGIN
            DELETE FROM holds WHERE fact_id = NEW.id; DELETE FROM usage WHERE fact_id = NEW.id;
            DELETE FROM marks WHERE fact_id = NEW.id; DELETE FROM value_keys WHERE fact_id = NEW.id; END""",
    ):
        db.execute(statement)


@migrations()
def feedback(db: Database) -> None:
    """Which facts should have governed which queries, and which should not have; it leaves with the fact."""
    for statement in (
        """CREATE TABLE feedback (
            number INTEGER PRIMARY KEY, query TEXT NOT NULL, fact_id TEXT, fires INTEGER NOT NULL, at TEXT NOT NULL, actor TEXT NOT NULL)""",
        "CREATE INDEX feedback_by_fact ON feedback(fact_id)",
        """CREATE TRIGGER forgotten_facts_leave_no_feedback AFTER UPDATE OF status ON facts WHEN NEW.status = 'forgotten' BEGIN
            DELETE FROM feedback WHERE fact_id = NEW.id; END""",
    ):
        db.execute(statement)


@migrations()
def behaviour(db: Database) -> None:
    """Rules, which have a scope instead of a subject; steering vectors, whose files lie beside the ledger."""
    for statement in (
        """CREATE TABLE rules (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT, status TEXT NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
            said TEXT NOT NULL, phrases TEXT NOT NULL, examples TEXT NOT NULL, counterexamples TEXT NOT NULL, author TEXT NOT NULL,
            created_at TEXT NOT NULL, salt TEXT)""",
        "CREATE UNIQUE INDEX one_active_rule_a_key ON rules(key) WHERE status = 'active'",
        """CREATE TABLE steering (
            name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, attached INTEGER NOT NULL, strength REAL, topic TEXT NOT NULL,
            examples TEXT NOT NULL, counterexamples TEXT NOT NULL)""",
    ):
        db.execute(statement)


@migrations()
def facts_by_subject(db: Database) -> None:
    """Facts in force by the subject's name, whatever its case: how a chain finds its next hop."""
    db.execute("CREATE INDEX facts_by_subject ON facts(subject COLLATE NOCASE) WHERE status = 'active'")


@migrations()
def periods(db: Database) -> None:
    """A key may have several facts in force, each with its own period of validity."""
    db.execute("DROP INDEX one_active_fact_a_key")
    db.execute("CREATE UNIQUE INDEX one_active_fact_a_beginning ON facts(key, coalesce(valid_from, '')) WHERE status = 'active'")


@migrations()
def facts_by_target(db: Database) -> None:
    """Facts in force by relation and target, whatever their case: how a fact is found that answers read backwards."""
    db.execute("CREATE INDEX facts_by_target ON facts(target_new COLLATE NOCASE, relation COLLATE NOCASE) WHERE status = 'active'")
