//! The table of retired names on Postgres, which keeps every release of the library from creating
//! checkpoints under them.

/// A program of an earlier release does not know the table, and may have no privileges on it: hence the
/// trigger, with the privileges of its owner. It finds the tables beside the one that it is on.
pub(super) const TABLES: &str = "
-- Names under which no checkpoint is created: of version 0 for all versions of a consumer. Those with a
-- successor were renamed, the others forgotten.
CREATE TABLE IF NOT EXISTS {retired} (
    log TEXT NOT NULL,
    consumer TEXT NOT NULL,
    version INT NOT NULL,
    successor TEXT,
    retired_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (log, consumer, version)
);

CREATE OR REPLACE FUNCTION {refuse retired}() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $consumer$
DECLARE
    found_one BOOLEAN;
    successor TEXT;
BEGIN
    EXECUTE format(
        'SELECT true, r.successor FROM %1$I.consumer_retired AS r
          WHERE r.consumer = $1 AND r.version IN (0, $2)
            AND NOT EXISTS (SELECT FROM %1$I.consumer_log AS l
                             WHERE l.consumer = r.consumer AND l.log <> r.log)
          ORDER BY r.version LIMIT 1', TG_TABLE_SCHEMA)
       INTO found_one, successor USING NEW.consumer, NEW.version;
    IF successor IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZC005', MESSAGE = format(
            'the consumer `%1$s` was renamed to `%2$s`; update this program, take the name back with `rename %2$s %1$s`, or start another consumer of this name with `start-new %1$s`',
            NEW.consumer, successor);
    ELSIF found_one THEN
        RAISE EXCEPTION USING ERRCODE = 'ZC005', MESSAGE = format(
            'the consumer `%1$s` was forgotten; update this program, or start it again with `start-new %1$s`',
            NEW.consumer);
    END IF;
    RETURN NEW;
END $consumer$;

DO $consumer$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{progress}'::regclass
                                            AND tgname = 'consumer_refuse_retired') THEN
        CREATE TRIGGER consumer_refuse_retired BEFORE INSERT ON {progress}
            FOR EACH ROW EXECUTE FUNCTION {refuse retired}();
    END IF;
END $consumer$;
";
