//! The SQL that an administrator runs before a worker without the right to create tables starts.

use super::operator::{Admin, declared_id};
use crate::backend::Backend;
use crate::contract::read_model::VersionTable;

impl<DB: Backend> Admin<DB> {
    /// Returns the SQL of [`EventStore::migration_sql`](crate::EventStore::migration_sql), and that of the
    /// tables and views of the read models of this program's consumers. The script can be run any number of
    /// times.
    ///
    /// A worker whose role may create tables needs none of it: it creates what is missing when it starts.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::prelude::*;
    /// use consumer::sqlx;
    ///
    /// #[derive(ReadModel)]
    /// #[read_model(table = "users")]
    /// struct User {
    ///     #[read_model(key)]
    ///     id: String,
    ///     registrations: i64,
    /// }
    ///
    /// #[derive(Default)]
    /// struct Users;
    ///
    /// #[consumer(name = "users", read_model = User)]
    /// impl Users {
    ///     #[on("UserRegistered")]
    ///     fn registered(&self, event: &PersistedEvent) -> User {
    ///         User { id: event.aggregate_id.clone(), registrations: 1 }
    ///     }
    /// }
    ///
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// let script = admin.migration_sql();
    /// assert!(script.contains(r#""users_v1""#));
    /// sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(admin.store().pool()).await?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn migration_sql(&self) -> String {
        let mut script = self.store.migration_sql();
        let schema = self.store.schema().handlers_schema();
        for code in &self.code {
            if let Some(table) = code.consumer.read_model() {
                let consumer = declared_id(&code.declaration);
                let table = VersionTable::new(table, consumer.version, schema);
                let settings = self.store.settings();
                script.push('\n');
                script.push_str(&DB::create_if_missing(settings, &consumer, &table, None));
            }
        }
        script
    }
}
