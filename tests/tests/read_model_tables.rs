//! The table of a read model: its schema, its types, what differs from the struct, and what to do then.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use consumer::admin::{ActivateOptions, Admin, ForgetOptions, RebuildOptions, Target, ViewError};
use consumer::prelude::*;
use consumer::read_model::{ReadModelDatabase, Table, TableColumn};
use consumer::testing::{ConsumerTest, TestError};
use consumer::{EventStore, Formerly, HandlerError, Registered, TableError, WorkerError};
use consumer_tests::{Database, Running, TestDatabase, run_once, test_on, until};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{Postgres, Sqlite};

/// A row with an index.
#[derive(ReadModel, Debug)]
#[read_model(table = "people")]
struct Person {
    #[read_model(key)]
    id: String,
    #[read_model(index)]
    email: String,
    changes: i64,
}

#[derive(Default)]
struct People;

#[consumer(name = "people", read_model = Person, group = "tables")]
impl People {
    #[on("Changed")]
    fn changed(&self, person: &mut Option<Person>, event: &PersistedEvent) {
        let changes = person.as_ref().map_or(0, |person| person.changes) + 1;
        *person = Some(Person {
            id: event.aggregate_id.clone(),
            email: "mail".into(),
            changes,
        });
    }
}

/// The same under another name.
#[derive(ReadModel)]
#[read_model(table = "members")]
struct Member {
    #[read_model(key)]
    id: String,
    email: String,
}

#[derive(Default)]
struct Members;

#[consumer(name = "people", read_model = Member, group = "tables")]
impl Members {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Member {
        Member {
            id: event.aggregate_id.clone(),
            email: "mail".into(),
        }
    }
}

/// A row in a schema.
#[derive(ReadModel, Debug)]
#[read_model(table = "reports.people")]
struct Reported {
    #[read_model(key)]
    id: String,
    #[read_model(index)]
    version: i64,
}

#[derive(Default)]
struct Reports;

#[consumer(name = "reports", read_model = Reported, group = "tables")]
impl Reports {
    #[on("Changed")]
    fn changed(&self, cx: &Context, event: &PersistedEvent) -> Reported {
        Reported {
            id: event.aggregate_id.clone(),
            version: cx.version().into(),
        }
    }
}

/// The error with which a worker does not start.
async fn refusal<DB: TestDatabase>(db: &Database<DB>, consumer: impl Consumer<DB>) -> WorkerError {
    let worker = db.worker().consumer(consumer).build().unwrap();
    worker.run_once().await.expect_err("the worker is refused")
}

/// In what a table differs from its struct, and the message.
async fn differences<DB: TestDatabase>(db: &Database<DB>) -> (Vec<String>, String) {
    let refused = refusal(db, People).await;
    let text = refused.to_string();
    match refused {
        WorkerError::Table(TableError::Differs { differences, .. }) => (differences, text),
        other => panic!("{other:?}"),
    }
}

async fn run<DB: ReadModelDatabase + TestDatabase>(db: &Database<DB>) {
    run_once(db.worker().consumer(People)).await;
}

test_on!(
    [sqlite, postgres],
    an_index_that_is_missing_is_named_with_its_statement,
    a_table_that_differs_can_be_dropped_and_rebuilt,
    a_table_that_differs_can_stay_beside_the_next_version,
    a_table_with_the_name_of_the_view_can_be_renamed,
    a_table_with_the_name_of_the_view_can_be_adopted,
    a_read_model_can_have_another_name_than_a_table,
    a_version_that_has_a_table_gets_no_other,
    a_view_with_the_name_of_the_view_can_be_dropped,
    a_name_that_is_too_long_with_its_version_is_refused,
    a_field_with_an_sql_type_is_read_by_sqlx,
    a_value_whose_text_is_read_as_another_fails_its_event,
    an_integer_that_json_would_round_fails_its_event
);

async fn an_index_that_is_missing_is_named_with_its_statement<DB: TestDatabase>(db: Database<DB>) {
    run(&db).await;
    let index = match DB::NAME {
        "PostgreSQL" => "people_v1_email_idx",
        _ => "people_v1_email",
    };
    db.execute(&format!("DROP INDEX {index}")).await;
    // One on a condition is none for the other rows.
    let partial = "CREATE INDEX partial ON people_v1 (email) WHERE email > ''";
    for change in ["SELECT 1", partial] {
        db.execute(change).await;
        let (differences, text) = differences(&db).await;
        let [difference] = &differences[..] else {
            panic!("{text}");
        };
        let beginning = "the column `email` has no index, which `";
        let statement = difference.strip_prefix(beginning).expect(difference);
        assert!(statement.starts_with("CREATE INDEX"), "{text}");
        let statement = statement.strip_suffix("` adds").expect(difference);
        db.execute(statement).await;
        run(&db).await;
        if change != partial {
            db.execute(&format!("DROP INDEX {index}")).await;
        }
    }
}

async fn a_table_that_differs_can_be_dropped_and_rebuilt<DB: TestDatabase>(db: Database<DB>) {
    db.append("Person", ["ada", "ada"]).await;
    run(&db).await;
    db.execute("ALTER TABLE people_v1 ADD COLUMN more TEXT")
        .await;
    let (differences, text) = differences(&db).await;
    assert_eq!(differences, ["the column `more` has no field"]);
    let remedy = "or drop this one, with the view if it shows this one, and rebuild the consumer";
    assert!(text.ends_with(remedy), "{text}");
    db.execute("DROP VIEW people; DROP TABLE people_v1").await;
    let admin = db.worker().consumer(People).admin().unwrap();
    let rebuilt = admin.rebuild("people", RebuildOptions::new()).await;
    rebuilt.unwrap();
    run(&db).await;
    assert_eq!(db.numbers("SELECT changes FROM people").await, [2]);
}

async fn a_table_that_differs_can_stay_beside_the_next_version<DB: TestDatabase>(db: Database<DB>) {
    db.append("Person", ["ada"]).await;
    run(&db).await;
    db.execute("ALTER TABLE people_v1 ADD COLUMN more TEXT")
        .await;
    let (_, text) = differences(&db).await;
    let remedy = "give the consumer `version = 2`, which fills a table beside this one";
    assert!(text.contains(remedy), "{text}");
    run_once(db.worker().registered(Registered::new(People).version(2))).await;
    let admin = Admin::new(db.store.clone());
    let second = Target::new("people").version(2);
    let activated = admin.activate(second, ActivateOptions::new()).await;
    activated.unwrap();
    assert_eq!(db.numbers("SELECT changes FROM people").await, [1]);
}

/// The message for something that has the name of the view.
async fn taken<DB: TestDatabase>(db: &Database<DB>) -> String {
    let refused = refusal(db, People).await;
    let is_taken = matches!(refused, WorkerError::View(ViewError::Taken { .. }));
    assert!(is_taken, "{refused:?}");
    refused.to_string()
}

async fn create_a_table_of_that_name<DB: TestDatabase>(db: &Database<DB>) {
    db.append("Person", ["ada"]).await;
    let integer = if DB::NAME == "SQLite" {
        "INTEGER"
    } else {
        "bigint"
    };
    db.execute(&format!(
        "CREATE TABLE people (id TEXT NOT NULL PRIMARY KEY, email TEXT NOT NULL, changes {integer} NOT NULL);
         CREATE INDEX by_email ON people (email);
         INSERT INTO people VALUES ('ada', 'old', 7)"
    ))
    .await;
}

async fn a_table_with_the_name_of_the_view_can_be_renamed<DB: TestDatabase>(db: Database<DB>) {
    create_a_table_of_that_name(&db).await;
    let text = taken(&db).await;
    assert!(text.contains("rename that table, adopt it"), "{text}");
    db.execute("ALTER TABLE people RENAME TO old_people").await;
    run(&db).await;
    assert_eq!(db.numbers("SELECT changes FROM people").await, [1]);
    assert_eq!(db.numbers("SELECT changes FROM old_people").await, [7]);
}

async fn a_table_with_the_name_of_the_view_can_be_adopted<DB: TestDatabase>(db: Database<DB>) {
    create_a_table_of_that_name(&db).await;
    let text = taken(&db).await;
    assert!(text.contains("by renaming it to `people_v1`"), "{text}");
    db.execute("ALTER TABLE people RENAME TO people_v1").await;
    run(&db).await;
    assert_eq!(db.numbers("SELECT changes FROM people").await, [8]);
}

async fn a_read_model_can_have_another_name_than_a_table<DB: TestDatabase>(db: Database<DB>) {
    create_a_table_of_that_name(&db).await;
    let text = taken(&db).await;
    let choice = "or choose another name with `#[read_model(table = \"…\")]`";
    assert!(text.contains(choice), "{text}");
    run_once(db.worker().consumer(Members)).await;
    assert_eq!(db.texts("SELECT id FROM members").await, ["ada"]);
}

/// The events that the version has handled would be missing from it.
async fn a_version_that_has_a_table_gets_no_other<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_one("Person", "ada").await;
    run(&db).await;
    let refused = refusal(&db, Members).await;
    let text = refused.to_string();
    let WorkerError::Table(TableError::Elsewhere { remedy, .. }) = refused else {
        panic!("{text}");
    };
    let is_qualified = DB::NAME == "PostgreSQL";
    let schema = if is_qualified { "public." } else { "" };
    let named = |name| format!("{schema}{name}");
    let (people, members) = (named("people"), named("members"));
    assert_eq!(
        remedy,
        format!(
            "write `table = \"{people}\"`, or fill that table with a new version, `version = 2` and `table = \"{members}\"`"
        )
    );
    let admin = db.worker().consumer(Members).admin().unwrap();
    let rebuilt = admin.rebuild("people", RebuildOptions::new()).await;
    assert_eq!(rebuilt.unwrap_err().to_string(), text);
    assert_eq!(db.checkpoint("people").await, Some(position));
    run_once(db.worker().registered(Registered::new(Members).version(2))).await;
    let (people, members) = ("SELECT id FROM people_v1", "SELECT id FROM members_v2");
    assert_eq!(db.texts(people).await, db.texts(members).await);
}

async fn a_view_with_the_name_of_the_view_can_be_dropped<DB: TestDatabase>(db: Database<DB>) {
    db.append("Person", ["ada"]).await;
    for view in [
        "CREATE VIEW people AS SELECT 'ada' AS id",
        // Of a table that is not the library's.
        "CREATE TABLE other (id TEXT); CREATE VIEW people AS SELECT id FROM other",
    ] {
        db.execute(view).await;
        let text = taken(&db).await;
        let choices = "rename or drop that view, or choose another name";
        assert!(text.contains(choices) && !text.contains("adopt"), "{text}");
        db.execute("DROP VIEW people").await;
    }
    run(&db).await;
    assert_eq!(db.numbers("SELECT changes FROM people").await, [1]);
}

/// A consumer that names a table, and does nothing.
struct Naming(&'static Table);

impl<DB: ReadModelDatabase> Consumer<DB> for Naming {
    fn name(&self) -> &str {
        "naming"
    }

    fn formerly(&self) -> Formerly {
        Formerly::None
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(self.0)
    }
}

const COLUMNS: &[TableColumn] = &[TableColumn::key::<String>("id")];

async fn a_name_that_is_too_long_with_its_version_is_refused<DB: TestDatabase>(db: Database<DB>) {
    const LONGEST: &Table = &Table::new(
        "a2345678901234567890123456789012345678901234567890123456789_",
        COLUMNS,
    );
    assert_eq!(LONGEST.name.len(), 60);
    run_once(db.worker().consumer(Naming(LONGEST))).await;
    let tenth = Registered::new(Naming(LONGEST)).version(10);
    let worker = db.worker().registered(tenth).build().unwrap();
    let refused = worker.run_once().await.expect_err("64 bytes");
    let WorkerError::Table(TableError::NameTooLong { table }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(*table, format!("{}_v10", LONGEST.name));
    assert!(refused.to_string().contains("choose a shorter `table`"));
}

/// A text that only one type of the database accepts as its own.
#[derive(Clone, Debug, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
struct Code(String);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Code {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

#[derive(ReadModel, Debug)]
#[read_model(table = "parts")]
struct Part {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "varchar(20)")]
    code: Code,
    #[read_model(sql_type = "varchar(20)")]
    other: Option<Code>,
}

#[derive(Default)]
struct Parts;

#[consumer(name = "parts", read_model = Part, group = "tables")]
impl Parts {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Part {
        Part {
            id: event.aggregate_id.clone(),
            code: Code("A-7".into()),
            other: None,
        }
    }
}

async fn a_field_with_an_sql_type_is_read_by_sqlx<DB: TestDatabase>(db: Database<DB>)
where
    Part: for<'r> sqlx::FromRow<'r, DB::Row>,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
{
    db.append("Part", ["a"]).await;
    run_once(db.worker().consumer(Parts)).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let part: Part = sqlx::query_as("SELECT * FROM parts")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!((part.code, part.other), (Code("A-7".into()), None));
}

/// A text that is read as another one.
#[derive(Clone, Debug)]
struct Loud(String);

impl fmt::Display for Loud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Loud {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_uppercase()))
    }
}

#[derive(ReadModel, Debug)]
#[read_model(table = "cries")]
struct Cry {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "text")]
    cry: Loud,
}

#[derive(Default)]
struct Cries;

#[consumer(name = "cries", read_model = Cry, group = "tables", retries = 0)]
impl Cries {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Cry {
        let id = event.aggregate_id.clone();
        let cry = Loud(id.clone());
        Cry { id, cry }
    }
}

async fn a_value_whose_text_is_read_as_another_fails_its_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("Cry", ["HO", "hey", "HA"]).await;
    let report = run_once(db.worker().consumer(Cries)).await.to_string();
    for part in ["column `cry` of `cries`", "`hey`", "`HEY`"] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    assert_eq!(db.checkpoint("cries").await, Some(positions[0]));
    assert_eq!(db.texts("SELECT cry FROM cries").await, ["HO"]);
}

/// A sum that may have more than 64 bits.
#[derive(Debug, Serialize, Deserialize)]
struct Sum {
    all: i128,
}

#[derive(ReadModel, Debug)]
#[read_model(table = "sums")]
struct Sums {
    #[read_model(key)]
    id: String,
    sum: Json<Sum>,
}

#[derive(Default)]
struct AddUp;

#[consumer(name = "add_up", read_model = Sums, group = "tables", retries = 0)]
impl AddUp {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Result<Sums, HandlerError> {
        let id = event.aggregate_id.clone();
        let all = id.parse()?;
        Ok(Sums {
            id,
            sum: Json(Sum { all }),
        })
    }
}

async fn an_integer_that_json_would_round_fails_its_event<DB: TestDatabase>(db: Database<DB>) {
    let fitting = [i64::MIN.into(), 7, u64::MAX.into()];
    let larger = i128::from(u64::MAX) + 1;
    let ids = fitting.iter().chain([&larger, &8]).map(i128::to_string);
    let positions = db.append("Sum", ids).await;
    let report = run_once(db.worker().consumer(AddUp)).await.to_string();
    let larger = format!("`{larger}`");
    for part in ["column `sum` of `sums`", &larger, "store it as a text"] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    assert_eq!(db.checkpoint("add_up").await, Some(positions[2]));
    let mut stored = Vec::new();
    for sums in db.rows::<Sums>(1).await.values() {
        assert_eq!(sums.id, sums.sum.0.all.to_string());
        stored.push(sums.sum.0.all);
    }
    stored.sort_unstable();
    assert_eq!(stored, fitting);
}

/// An amount of money, which a column of SQLite would round.
#[derive(Clone, Copy, Debug)]
struct Cents(i64);

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Cents {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.replace('.', "").parse().map(Self)
    }
}

#[derive(ReadModel, Debug)]
#[read_model(table = "costs")]
struct Cost {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "numeric(20, 2)")]
    amount: Cents,
}

#[derive(Default)]
struct Costs;

#[consumer(name = "costs", read_model = Cost, group = "tables")]
impl Costs {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Result<Cost, HandlerError> {
        let id = event.aggregate_id.clone();
        let amount = Cents(id.parse()?);
        Ok(Cost { id, amount })
    }
}

#[tokio::test]
async fn an_sql_type_is_a_text_on_sqlite_which_queries_cast() {
    let db = Database::<Sqlite>::fresh().await;
    db.append("Cost", ["1000", "950"]).await;
    run_once(db.worker().consumer(Costs)).await;
    let declared = "SELECT type FROM pragma_table_info('costs_v1') WHERE name = 'amount'";
    assert_eq!(db.texts(declared).await, ["TEXT"]);
    let amounts = |order: &str| format!("SELECT amount FROM costs ORDER BY {order}");
    assert_eq!(db.texts(&amounts("amount")).await, ["10.00", "9.50"]);
    let cast = amounts("CAST(amount AS REAL)");
    assert_eq!(db.texts(&cast).await, ["9.50", "10.00"]);
}

#[tokio::test]
async fn an_sql_type_is_that_type_on_postgres() {
    let db = Database::<Postgres>::fresh().await;
    db.append("Cost", ["1000", "950"]).await;
    run_once(db.worker().consumer(Costs)).await;
    let amounts = "SELECT amount::text FROM costs ORDER BY costs.amount";
    assert_eq!(db.texts(amounts).await, ["9.50", "10.00"]);
}

/// Ways to write the types of Postgres, each of which it shows in one way.
const SPELLINGS: &str = r#"
    dec; dec(9); decimal(9, 2); numeric; numeric(9); numeric(10,2); NUMERIC( 10 , 2 ); float;
    float(24); float(25); float4; float8; real; double precision; int2; int4; int8; smallint; int;
    integer; bigint; bool; boolean; char; char(3); character; character(3); nchar(3);
    national character(3); varchar; varchar(10); character varying; character varying(10);
    char varying(10); national character varying(10); text; TEXT; name; "char"; bit; bit(3);
    bit varying; bit varying(3); varbit(3); date; time; time(3); time without time zone;
    time(3) without time zone; timetz; timetz(3); time with time zone; time(3) with time zone;
    timestamp; timestamp(3); timestamptz; timestamptz(3); timestamp with time zone;
    timestamp(3) with time zone; interval; interval(3); interval year to month; interval second(3);
    interval day to second(3); uuid; json; jsonb; bytea; inet; cidr; money; point; int4range;
    pg_catalog.int4; pg_catalog.varchar(10); Mood; mood; "My Mood"; public."My Mood";
    other."My Mood"; "Short"; required"#;

#[tokio::test]
async fn every_spelling_of_a_type_starts_twice() {
    let db = Database::<Postgres>::fresh().await;
    db.execute(
        "CREATE SCHEMA other; CREATE TYPE mood AS ENUM ('good'); CREATE TYPE \"My Mood\" AS ENUM ('good');
         CREATE TYPE other.\"My Mood\" AS ENUM ('good'); CREATE DOMAIN \"Short\" AS varchar(3);
         CREATE DOMAIN required AS numeric(9, 2) NOT NULL CHECK (VALUE > 0)",
    )
    .await;
    let mut columns = vec![TableColumn::key::<String>("id")];
    let spellings: Vec<&str> = SPELLINGS.split(';').map(str::trim).collect();
    for (number, spelling) in spellings.iter().enumerate() {
        let name = format!("c{number}").leak();
        columns.push(TableColumn::other(name, spelling, false));
    }
    let table = Box::leak(Box::new(Table::new("spellings", columns.leak())));
    for _ in 0..2 {
        run_once(db.worker().consumer(Naming(table))).await;
    }
    let number = spellings.iter().position(|one| *one == "numeric(10,2)");
    let column = format!("c{}", number.unwrap());
    db.execute(&format!(
        "DROP VIEW spellings; ALTER TABLE spellings_v1 ALTER COLUMN {column} TYPE numeric(11, 2)"
    ))
    .await;
    let text = refusal(&db, Naming(table)).await.to_string();
    let difference =
        format!("the column `{column}` has the type numeric(11,2) and not numeric(10,2);");
    assert!(text.contains(&difference), "{text}");
}

#[derive(ReadModel, Debug)]
#[read_model(table = "moods")]
struct Feeling {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "\"My Mood\"")]
    mood: Code,
    #[read_model(sql_type = "float(24)")]
    degree: f32,
}

#[derive(Default)]
struct Moods;

#[consumer(name = "moods", read_model = Feeling, group = "tables")]
impl Moods {
    #[on("Changed")]
    fn changed(&self, event: &PersistedEvent) -> Feeling {
        Feeling {
            id: event.aggregate_id.clone(),
            mood: Code("Quite good".into()),
            degree: 0.5,
        }
    }
}

#[tokio::test]
async fn a_column_can_have_a_type_whose_name_is_quoted() {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE TYPE \"My Mood\" AS ENUM ('Quite good')")
        .await;
    for id in ["ada", "grace"] {
        db.append("Person", [id]).await;
        run_once(db.worker().consumer(Moods)).await;
    }
    let moods = "SELECT concat_ws(' ', id, mood, degree) FROM moods ORDER BY id";
    assert_eq!(
        db.texts(moods).await,
        ["ada Quite good 0.5", "grace Quite good 0.5"]
    );
}

#[tokio::test]
async fn a_table_in_a_schema_is_maintained_as_any_other() {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE SCHEMA reports").await;
    let first = || Registered::new(Reports);
    let second = || Registered::new(Reports).version(2);
    // One version is created by the printed script, the other by the worker.
    let script = db.worker().registered(second()).admin().unwrap();
    run_once(db.worker().registered(first())).await;
    db.execute(&script.migration_sql()).await;
    let position = db.append("Person", ["ada"]).await[0];
    let worker = || db.worker().registered(first());
    let (found, _) = tokio::join!(
        db.store
            .find_as_of::<Reported>("ada", position, Duration::from_mins(1)),
        run_once(worker())
    );
    assert_eq!(found.unwrap().unwrap().version, 1);
    run_once(db.worker().registered(second())).await;
    let admin = Admin::new(db.store.clone());
    let version = |number| Target::new("reports").version(number);
    let activated = admin.activate(version(2), ActivateOptions::new()).await;
    activated.unwrap();
    let found = Reported::find(&db.pool, "ada").await;
    assert_eq!(found.unwrap().unwrap().version, 2);
    let forgotten = admin.forget(version(1), ForgetOptions::new()).await;
    forgotten.unwrap();
    let relations = "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class
                      WHERE relname LIKE 'people%' AND relkind IN ('r', 'v') ORDER BY 1";
    assert_eq!(
        db.texts(relations).await,
        ["reports.people", "reports.people_v2"]
    );
}

#[tokio::test]
async fn a_schema_that_does_not_exist_is_refused_with_its_statement() {
    let db = Database::<Postgres>::fresh().await;
    let refused = refusal(&db, Reports).await;
    let WorkerError::Table(TableError::MissingSchema { schema, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(schema, "reports");
    let statement = "CREATE SCHEMA reports";
    assert!(refused.to_string().contains(&format!("run `{statement}`")));
    db.execute(statement).await;
    run_once(db.worker().consumer(Reports)).await;
}

#[tokio::test]
async fn sqlite_refuses_a_table_in_a_schema() {
    let db = Database::<Sqlite>::fresh().await;
    let refused = refusal(&db, Reports).await;
    let is_refused = matches!(
        refused,
        WorkerError::Table(TableError::SchemaNotSupported { .. })
    );
    assert!(is_refused, "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("write `table = \"people\"`"), "{text}");
}

#[tokio::test]
async fn without_a_current_schema_the_name_is_to_give_one() {
    let db = Database::<Postgres>::fresh().await;
    let mut tx = db.store.begin().await.unwrap();
    Postgres::execute_sql(&mut tx, "SET LOCAL search_path = nowhere")
        .await
        .unwrap();
    let mut test = ConsumerTest::within(tx, Registered::new(People));
    test.given(NewEvent::new("Person", "ada", "Changed", "{}"));
    let Err(refused @ TestError::Table(TableError::NoSchema { .. })) = test.when().await else {
        panic!("there is no schema");
    };
    let text = refused.to_string();
    assert!(text.contains("`table = \"schema.people\"`"), "{text}");
}

#[tokio::test]
async fn a_file_that_is_opened_read_only_is_refused() {
    let db = Database::<Sqlite>::fresh().await;
    let url = format!("{}?mode=ro", db.url);
    let store = EventStore::<Sqlite>::connect(&url).await.unwrap();
    let read_only = Database::of(store, &url);
    let refused = refusal(&read_only, People).await;
    let is_read_only = matches!(refused, WorkerError::Table(TableError::ReadOnly { .. }));
    assert!(is_read_only, "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("the database is read-only"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_during_a_rename_records_no_table_of_the_old_name() {
    let db = Database::<Postgres>::fresh().await;
    let worker = || Worker::builder(db.store.clone()).consumer(People);
    run_once(worker()).await;
    // The lock of those that prepare tables stops a process that has seen no rename.
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7166182912370463012)")
        .execute(&mut *tx)
        .await
        .unwrap();
    let old = Running::start(worker());
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("it waits to prepare its table", async || {
        db.number(waiting).await == 1
    })
    .await;
    let admin = Admin::new(db.store.clone());
    admin.rename("people", "persons").await.unwrap();
    tx.commit().await.unwrap();

    until("it is held back", async || {
        old.consumers()[0].state.name() == "held_back"
    })
    .await;
    let recorded = "SELECT consumer FROM consumer_read_models";
    assert_eq!(db.texts(recorded).await, ["persons"]);
    old.stop().await;
}
