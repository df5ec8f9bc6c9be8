//! Servers that answer otherwise than a server does, for the controls of the tests of R11.

use consumer::EventStore;
use sqlx::Postgres;

use crate::Database;

/// Shows a session called `blind` only locks of such sessions, which it needs for its check of the
/// server, and none of a writer.
const BLINDFOLD: &str = "
    CREATE OR REPLACE VIEW pg_catalog.pg_locks AS
    SELECT l.* FROM pg_lock_status() AS l
     WHERE current_setting('application_name') <> 'blind'
        OR l.pid IN (SELECT a.pid FROM pg_stat_get_activity(NULL) AS a WHERE a.application_name = 'blind')";

/// The frontier of such sessions is not saved, so that no other worker starts from it.
const KEEP_FRONTIER: &str = "
    CREATE FUNCTION keep_frontier() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RETURN CASE WHEN current_setting('application_name') <> 'blind' THEN NEW END;
    END $$;
    CREATE TRIGGER keep_frontier BEFORE INSERT OR UPDATE ON consumer_frontier
        FOR EACH ROW EXECUTE FUNCTION keep_frontier()";

/// Shows sessions called `trusting` the same marker on every server. The server's own functions stay in
/// use under other names.
const TRUST: &str = "
    CREATE FUNCTION public.is_standby() RETURNS boolean
        LANGUAGE internal STABLE AS 'pg_is_in_recovery';
    CREATE FUNCTION public.started_at() RETURNS timestamptz
        LANGUAGE internal STABLE AS 'pg_postmaster_start_time';
    CREATE OR REPLACE FUNCTION pg_catalog.pg_is_in_recovery() RETURNS boolean
        LANGUAGE sql AS $$
        SELECT current_setting('application_name') <> 'trusting' AND public.is_standby() $$;
    CREATE OR REPLACE FUNCTION pg_catalog.pg_postmaster_start_time() RETURNS timestamptz
        LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN current_setting('application_name') = 'trusting'
                    THEN '2000-01-01'::timestamptz ELSE public.started_at() END $$;
    CREATE OR REPLACE FUNCTION pg_catalog.pg_stat_get_bgwriter_stat_reset_time()
        RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT '2000-01-01'::timestamptz $$";

impl Database<Postgres> {
    /// Runs a script that replaces views and functions in the catalogue of this database.
    pub async fn replace_in_catalog(&self, sql: &str) {
        self.execute(&format!(
            "SET allow_system_table_mods = on; {sql}; RESET allow_system_table_mods"
        ))
        .await;
    }

    /// The same database, to be given to workers that cannot see who may still fill a gap: they
    /// take `max(global_position)` for the frontier, and are ordinary workers in everything else.
    pub async fn blindfolded(&self) -> Self {
        self.replace_in_catalog(BLINDFOLD).await;
        self.execute(KEEP_FRONTIER).await;
        let url = format!("{}?application_name=blind", self.url);
        let store = EventStore::connect(&url).await.expect("connect");
        Self::of(store, &url)
    }
    /// Lets workers whose sessions are called `trusting` believe that any server is the one on which they
    /// settled the log; they are ordinary workers in everything else.
    pub async fn let_trusting_sessions_be_misled(&self) {
        self.replace_in_catalog(TRUST).await;
    }
}
