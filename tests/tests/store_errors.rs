//! Opening a store where that cannot work: every error says what to do.

use std::error::Error as _;

use consumer::{Column, EventStore, PgEventStore, Schema, SqliteEventStore, StoreError};
use consumer_tests::{SqliteDatabase, TestPostgres};
use sqlx::{Postgres, Sqlite};

async fn postgres_error(url: &str) -> StoreError {
    EventStore::<Postgres>::connect(url).await.unwrap_err()
}

async fn sqlite_error(url: &str) -> StoreError {
    EventStore::<Sqlite>::connect(url).await.unwrap_err()
}

/// The cause of an error, which its own message leaves out.
fn cause(error: &StoreError) -> String {
    let cause = error.source().expect("a cause").to_string();
    assert!(!error.to_string().contains(&cause), "{error}");
    cause
}

#[tokio::test]
async fn a_url_of_another_database_is_an_error_that_shows_a_right_one() {
    for url in [
        "mysql://ada:secret@db/app",
        "sqlite:app.db",
        "app",
        "",
        "postgres:app",
        "http://x",
    ] {
        let error = postgres_error(url).await;
        assert!(
            matches!(error, StoreError::WrongUrl { .. }),
            "{url}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.ends_with(
                "is not a Postgres URL: write `postgres://user:password@host:5432/database`"
            ),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
    for url in [
        "postgres://db/app",
        "app.db",
        "",
        "sqlite:",
        "sqlite://",
        "mysql://ada:secret@db/app",
    ] {
        let error = sqlite_error(url).await;
        assert!(
            matches!(error, StoreError::WrongUrl { .. }),
            "{url}: {error:?}"
        );
        let text = error.to_string();
        assert!(
            text.ends_with("is not a SQLite URL: write `sqlite:app.db` or `sqlite::memory:`"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_url_is_shown_without_anything_that_may_be_a_password() {
    for (url, shown) in [
        ("mysql://ada:secret@db/app", "mysql://db/app"),
        ("mysql:ada:secret@db/app", "db/app"),
        ("ada:secret@db", "db"),
        ("ada:secret@mysql://db", "mysql://db"),
        ("mysql://ada:sec@ret@db/app", "mysql://db/app"),
        ("mysql://ada:sec/ret@db/app", "mysql://db/app"),
        ("mysql://ada:sec?ret@db/app", "mysql://…"),
        ("mysql://db/app?user=ada&password=secret", "mysql://db/app"),
        ("mysql://db/app?password=sec@ret", "mysql://…"),
        ("host=db user=ada password=secret", "…"),
        ("sqlite:app.db?mode=rw", "sqlite:app.db"),
        ("app", "app"),
        ("", ""),
    ] {
        let text = postgres_error(url).await.to_string();
        let expected = format!("`{shown}` is not a Postgres URL");
        assert!(text.starts_with(&expected), "{url}: {text}");
        assert!(!text.contains("ret"), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_parsed_is_an_error_with_the_reason() {
    let error = postgres_error("postgres://host:port/app").await;
    assert!(matches!(error, StoreError::InvalidUrl { .. }), "{error:?}");
    assert!(cause(&error).contains("invalid port number"), "{error:?}");
    let error = sqlite_error("sqlite:app.db?mode=sideways").await;
    assert!(matches!(error, StoreError::InvalidUrl { .. }), "{error:?}");
    assert!(cause(&error).contains("sideways"), "{error:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_named_without_the_password() {
    let error = postgres_error("postgres://ada:secret@127.0.0.1:1/app").await;
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("cannot connect to Postgres at `127.0.0.1:1/app`"),
        "{text}"
    );
    assert!(cause(&error).contains("Connection refused"), "{error:?}");
    assert!(text.contains("check that the server runs there"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_database_missing_from_the_server_is_named() {
    let url = TestPostgres::shared().await.url("nowhere");
    let cause = cause(&postgres_error(&url).await);
    assert!(
        cause.contains("database \"nowhere\" does not exist"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_a_database_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/app.db");
    let text_file = directory.path().join("notes.txt");
    std::fs::write(
        &text_file,
        "not a database, and long enough to be asked".repeat(100),
    )
    .unwrap();
    for (file, reason) in [
        (&missing, "unable to open database file"),
        (&text_file, "file is not a database"),
        (&directory.path().to_owned(), "unable to open database file"),
    ] {
        let error = sqlite_error(&format!("sqlite:{}", file.display())).await;
        assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(&format!(
                "cannot open the SQLite database `{}`",
                file.display()
            )),
            "{text}"
        );
        assert!(cause(&error).contains(reason), "{error:?}");
    }
}

#[tokio::test]
async fn a_missing_file_is_created_unless_the_url_gives_a_mode() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("app.db");
    let error = sqlite_error(&format!("sqlite:{}?mode=rw", file.display())).await;
    assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
    SqliteEventStore::connect(&format!("sqlite://{}", file.display()))
        .await
        .unwrap();
    assert!(file.exists());
}

#[tokio::test]
async fn a_file_is_set_up_for_a_servers_use() {
    let database = SqliteDatabase::new().await;
    for (pragma, expected) in [
        ("SELECT journal_mode FROM pragma_journal_mode", "wal"),
        ("SELECT timeout FROM pragma_busy_timeout", "5000"),
        ("SELECT foreign_keys FROM pragma_foreign_keys", "1"),
        ("SELECT synchronous FROM pragma_synchronous", "1"),
    ] {
        let value: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT CAST(({pragma}) AS TEXT)"
        )))
        .fetch_one(&database.pool)
        .await
        .unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
}

#[tokio::test]
async fn a_mapping_with_a_name_that_is_none_is_an_error_that_names_it() {
    let database = TestPostgres::shared().await.database().await;
    for (schema, text) in [
        (
            Schema::default().events("e\"; DROP TABLE users; --"),
            "the table of events cannot be named",
        ),
        (
            Schema::default().aggregate_heads(""),
            "the table of heads cannot be named ``: it is empty",
        ),
        (
            Schema::default().database_schema("a\0b"),
            "a database schema cannot be named",
        ),
        (
            Schema::default().sequence("it's"),
            "the sequence cannot be named",
        ),
        (
            Schema::default().column(Column::Payload, "x".repeat(64)),
            "it is longer than 63 bytes",
        ),
        (
            Schema::default().column(Column::AggregateId, "updated_at"),
            "the table of heads has a column of that name",
        ),
        (
            Schema::default().column(Column::Payload, "metadata"),
            "another column has that name",
        ),
    ] {
        let error = PgEventStore::new(database.pool.clone())
            .with_schema(schema)
            .unwrap_err();
        assert!(
            matches!(error, StoreError::InvalidIdentifier { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn sqlite_has_no_schemas_and_says_so() {
    let database = SqliteDatabase::new().await;
    let schema = Schema::default().database_schema("sales");
    let error = SqliteEventStore::new(database.pool.clone())
        .with_schema(schema)
        .unwrap_err();
    assert!(
        error.to_string().contains("SQLite has no schemas"),
        "{error}"
    );
}
