//! The table of retired names on SQLite, which keeps every release of the library from creating
//! checkpoints under them.

/// A program of an earlier release does not know the table: hence the trigger, whose message cannot have
/// names in it.
pub(super) const TABLES: &str = "
-- Names under which no checkpoint is created: of version 0 for all versions of a consumer. Those with a
-- successor were renamed, the others forgotten.
CREATE TABLE IF NOT EXISTS {retired} (
    log TEXT NOT NULL COLLATE NOCASE,
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    successor TEXT,
    retired_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (log, consumer, version)
);

CREATE TRIGGER IF NOT EXISTS {refuse retired} BEFORE INSERT ON {progress}
    WHEN EXISTS (SELECT 1 FROM {retired} AS r
                  WHERE r.consumer = NEW.consumer AND r.version IN (0, NEW.version)
                    AND NOT EXISTS (SELECT 1 FROM {logs} AS l
                                     WHERE l.consumer = r.consumer AND l.log <> r.log))
BEGIN
    SELECT RAISE(ABORT, 'a consumer of this program was renamed or forgotten, as the table `consumer_retired` says; update this program, take the name back with `rename`, or start the consumer again with `start-new`');
END;
";
