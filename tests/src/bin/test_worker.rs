//! A worker with the consumers that it is started with, for tests of several processes.

use consumer::Registered;

consumer_tests::declare_accounts!(on_sqlite, SqliteConnection, Sqlite);
consumer_tests::declare_accounts!(on_postgres, PgConnection, Postgres);

fn main() {
    consumer_tests::declaring_main(
        || Registered::new(on_sqlite::Accounts::default()),
        || Registered::new(on_postgres::Accounts::default()),
    );
}
