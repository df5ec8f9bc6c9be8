//! The control of the tests of R11: a worker to which the highest visible position is the frontier.

use consumer::EventStore;
use sqlx::Postgres;

use crate::Database;

/// Shows a worker only its own lock, which it needs for its check of the server, and none of a
/// writer. The durable frontier is its own too, so that no other worker starts from it.
const BLINDFOLD: &str = "
    CREATE SCHEMA blind;
    CREATE VIEW blind.pg_locks AS
    SELECT l.* FROM pg_catalog.pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
     WHERE a.application_name = 'blind';
    CREATE TABLE blind.consumer_frontier (LIKE public.consumer_frontier INCLUDING ALL)";

impl Database<Postgres> {
    /// The same database, to be given to workers that cannot see who may still fill a gap: they
    /// take `max(global_position)` for the frontier, and are ours in everything else.
    pub async fn blindfolded(&self) -> Self {
        self.execute(BLINDFOLD).await;
        // The catalog comes first unless it is named.
        let url = format!(
            "{}?application_name=blind&options[search_path]=blind,public,pg_catalog",
            self.url
        );
        let store = EventStore::connect(&url).await.expect("connect");
        Self::of(store, &url)
    }
}
