//! A web application: commands append events, queries read a read model, and a command is answered when
//! its own change can be read.

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use consumer::admin::Admin;
use consumer::dashboard::{self, DashboardOptions};
use consumer::prelude::*;
use consumer::{StoreError, WorkerHandle, sqlx};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The state that requests share.
#[derive(Clone)]
pub(crate) struct App {
    /// The database of the events and of the read model.
    pub(crate) store: SqliteEventStore,
    /// The worker in this process.
    pub(crate) worker: WorkerHandle<sqlx::Sqlite>,
    /// The metrics that Prometheus scrapes.
    pub(crate) metrics: PrometheusHandle,
}

/// A user, in the request of the command and in the response of the query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
}

/// The read model behind the query.
#[derive(Default)]
pub(crate) struct UserReadModel;

#[consumer(name = "web.users", aggregates = ["User"])]
impl UserReadModel {
    async fn handle(
        &self,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> anyhow::Result<()> {
        let user: User = event.json()?;
        sqlx::query("INSERT INTO users (id, email) VALUES (?1, ?2)")
            .bind(user.id)
            .bind(user.email)
            .execute(tx)
            .await?;
        Ok(())
    }

    #[on(reset)]
    async fn reset(&self, tx: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM users").execute(tx).await?;
        Ok(())
    }
}

/// Creates the tables of the store and of the read model.
pub(crate) async fn prepare(store: &SqliteEventStore) -> anyhow::Result<()> {
    store.migrate().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, email TEXT NOT NULL)")
        .execute(store.pool())
        .await?;
    Ok(())
}

/// The routes of the application. `/ops` shows the state of the consumers; a real program puts its own
/// authentication before it, and says with `DashboardOptions::authorize` who may change something.
pub(crate) fn router(app: App, admin: Admin<sqlx::Sqlite>) -> Router {
    Router::new()
        .route("/users", post(register))
        .route("/users/{id}", get(user))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(app)
        .nest("/ops", dashboard::router(admin, DashboardOptions::new()))
}

/// The command. A client that has received the response can read its own write.
async fn register(
    State(app): State<App>,
    Json(user): Json<User>,
) -> Result<impl IntoResponse, Failure> {
    let event = NewEvent::json("User", user.id.as_str(), "UserRegistered", &user)?;
    let stored = app
        .store
        .append(ExpectedVersion::NoStream, &[event])
        .await?;
    if let Some(event) = stored.last() {
        app.worker
            .consumer_caught_up_to("web.users", event.global_position)
            .await?;
    }
    Ok((StatusCode::CREATED, Json(user)))
}

/// The query.
async fn user(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let email: Option<String> = sqlx::query_scalar("SELECT email FROM users WHERE id = ?1")
        .bind(&id)
        .fetch_optional(app.store.pool())
        .await?;
    Ok(match email {
        Some(email) => (StatusCode::OK, Json(json!(User { id, email }))),
        None => (
            StatusCode::NOT_FOUND,
            Json(json!({"error": "no such user"})),
        ),
    })
}

/// The liveness probe. It fails if the worker makes no progress, where a restart may help.
async fn live(State(app): State<App>) -> (StatusCode, String) {
    let health = app.worker.health();
    probe(health.is_live(), &health)
}

/// The readiness probe. It succeeds if the read models are kept up to date.
async fn ready(State(app): State<App>) -> (StatusCode, String) {
    let health = app.worker.health();
    probe(health.is_ready(), &health)
}

fn probe(passes: bool, health: &consumer::Health) -> (StatusCode, String) {
    let status = if passes {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, health.to_string())
}

async fn scrape(State(app): State<App>) -> Result<String, Infallible> {
    Ok(app.metrics.render())
}

/// An error as a response.
struct Failure(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let conflict = self
            .0
            .downcast_ref::<StoreError>()
            .is_some_and(|error| matches!(error, StoreError::Conflict { .. }));
        let status = if conflict {
            StatusCode::CONFLICT
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        (status, Json(json!({"error": self.0.to_string()}))).into_response()
    }
}
