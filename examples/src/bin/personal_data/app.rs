//! Personal data in events: encrypted with a key of each person, redacted, and deleted.
//!
//! The code is the same on both databases. `Database` is the one that the program is for, and `BYTES_TYPE`
//! its type of columns for bytes.

use anyhow::{Context as _, anyhow, ensure};
use consumer::admin::{Admin, RebuildOptions};
use consumer::prelude::*;
use consumer::{EventStore, sqlx};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{BYTES_TYPE, Database};

type Connection = <Database as sqlx::Database>::Connection;

/// A text that only the key of one person opens.
#[derive(Serialize, Deserialize)]
struct Sealed(Vec<u8>);

/// Personal data is sealed; what the business needs after a deletion is not.
#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "User")]
struct Registered {
    email: Sealed,
    country: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "User")]
struct Erased {}

/// The key of one person.
struct PersonKey(LessSafeKey);

impl PersonKey {
    fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes);
        Ok(Self(LessSafeKey::new(
            key.map_err(|_| anyhow!("a key has 32 bytes"))?,
        )))
    }

    /// Encrypts a text; the person's id keeps it from being moved to another one.
    fn seal(&self, person: &str, text: &str) -> anyhow::Result<Sealed> {
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = text.as_bytes().to_vec();
        let (by, of) = (Nonce::assume_unique_for_key(nonce), Aad::from(person));
        let done = self.0.seal_in_place_append_tag(by, of, &mut sealed);
        done.map_err(|_| anyhow!("the text is too long"))?;
        Ok(Sealed([&nonce[..], &sealed].concat()))
    }

    fn open(&self, person: &str, sealed: &Sealed) -> anyhow::Result<String> {
        let (nonce, text) = sealed.0.split_at_checked(NONCE_LEN).context("too short")?;
        let mut text = text.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce);
        let nonce = nonce.map_err(|_| anyhow!("too short"))?;
        let opened = self.0.open_in_place(nonce, Aad::from(person), &mut text);
        let opened = opened.map_err(|_| anyhow!("sealed with another key"))?;
        Ok(String::from_utf8(opened.to_vec())?)
    }
}

fn random<const BYTES: usize>() -> anyhow::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow!("no random numbers"))?;
    Ok(bytes)
}

/// The keys belong in a database of their own, with backups that are kept for a short time.
fn tables() -> String {
    format!(
        "CREATE TABLE person_keys (person TEXT PRIMARY KEY, key {BYTES_TYPE} NOT NULL);
         CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT, country TEXT NOT NULL)"
    )
}

/// The key of a person, unless it was destroyed.
async fn key_of(connection: &mut Connection, person: &str) -> anyhow::Result<Option<PersonKey>> {
    let key: Option<Vec<u8>> = sqlx::query_scalar("SELECT key FROM person_keys WHERE person = $1")
        .bind(person)
        .fetch_optional(connection)
        .await?;
    key.map(|bytes| PersonKey::from_bytes(&bytes)).transpose()
}

/// A read model that has what its people still allow.
#[derive(Default)]
struct Users;

#[consumer(name = "users", aggregates = ["User"])]
impl Users {
    #[on]
    async fn registered(
        &self,
        tx: &mut Connection,
        event: Envelope<'_, Registered>,
    ) -> anyhow::Result<()> {
        let person = &event.aggregate_id;
        // Without the key, nothing of the person is left, and the handler still succeeds.
        let email = match key_of(tx, person).await? {
            Some(key) => Some(key.open(person, &event.payload.email)?),
            None => None,
        };
        sqlx::query(
            "INSERT INTO users (id, email, country) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET email = excluded.email",
        )
        .bind(person)
        .bind(email)
        .bind(&event.payload.country)
        .execute(tx)
        .await?;
        Ok(())
    }

    #[on]
    async fn erased(&self, tx: &mut Connection, event: Envelope<'_, Erased>) -> anyhow::Result<()> {
        sqlx::query("UPDATE users SET email = NULL WHERE id = $1")
            .bind(&event.aggregate_id)
            .execute(tx)
            .await?;
        Ok(())
    }

    #[on(reset)]
    async fn reset(&self, tx: &mut Connection) -> anyhow::Result<()> {
        sqlx::query("DELETE FROM users").execute(tx).await?;
        Ok(())
    }
}

async fn register(store: &EventStore<Database>, person: &str, country: &str) -> anyhow::Result<()> {
    let key = random::<32>()?;
    let email = PersonKey::from_bytes(&key)?.seal(person, &format!("{person}@example.com"))?;
    let country = country.to_owned();
    let event = NewEvent::typed(&Registered { email, country })?.of(person);
    let mut tx = store.begin().await?;
    sqlx::query("INSERT INTO person_keys (person, key) VALUES ($1, $2)")
        .bind(person)
        .bind(&key[..])
        .execute(&mut *tx)
        .await?;
    store
        .append_in(&mut tx, ExpectedVersion::NoStream, &[event])
        .await?;
    Ok(tx.commit().await?)
}

/// Destroys the key, and tells all consumers, in one transaction.
async fn erase(store: &EventStore<Database>, person: &str) -> anyhow::Result<()> {
    let event = NewEvent::typed(&Erased {})?.of(person);
    let mut tx = store.begin().await?;
    sqlx::query("DELETE FROM person_keys WHERE person = $1")
        .bind(person)
        .execute(&mut *tx)
        .await?;
    store
        .append_in(&mut tx, ExpectedVersion::Any, &[event])
        .await?;
    Ok(tx.commit().await?)
}

/// Handles what is in the log, and shows the read model.
async fn show(store: &EventStore<Database>, when: &str) -> anyhow::Result<()> {
    let report = Worker::builder(store.clone())
        .discover()
        .build()?
        .run_once()
        .await?;
    ensure!(!report.has_failures(), "{report}");
    let users: Vec<(String, Option<String>, String)> =
        sqlx::query_as("SELECT id, email, country FROM users ORDER BY id")
            .fetch_all(store.pool())
            .await?;
    for (id, email, country) in users {
        let email = email.unwrap_or_else(|| "unknown".to_owned());
        println!("{when}: {id} in {country}, {email}");
    }
    Ok(())
}

pub(crate) async fn run(store: EventStore<Database>) -> anyhow::Result<()> {
    store.migrate().await?;
    let tables = sqlx::AssertSqlSafe(tables());
    sqlx::raw_sql(tables).execute(store.pool()).await?;
    register(&store, "ada", "GB").await?;
    register(&store, "grace", "US").await?;
    show(&store, "registered").await?;

    erase(&store, "ada").await?;
    show(&store, "erased").await?;
    // Nor does a rebuild bring anything back: the event has it, and no one can read it.
    let admin = Worker::builder(store.clone()).discover().admin()?;
    admin.rebuild("users", RebuildOptions::new()).await?;
    show(&store, "rebuilt").await?;

    redact_notes(&store).await
}

/// An event from before personal data was sealed.
async fn redact_notes(store: &EventStore<Database>) -> anyhow::Result<()> {
    let note = NewEvent::new(
        "Note",
        "n-1",
        "NoteWritten",
        r#"{"text":"call Ada, 555-1234"}"#,
    );
    let written = store.append(ExpectedVersion::NoStream, &[note]).await?;
    let position = written.first().context("no event")?.global_position;

    let admin = Admin::new(store.clone());
    admin.redact(position, r#"{"text":null}"#).await?;

    let mut connection = store.pool().acquire().await?;
    for event in store.read_events(&mut connection, position - 1, 1).await? {
        let payload = String::from_utf8_lossy(&event.payload);
        println!("redacted: {} {payload}", event.event_type);
    }
    Ok(())
}
