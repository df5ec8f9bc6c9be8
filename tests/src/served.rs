//! Dashboards that listen, for tests.

use std::net::SocketAddr;

use axum::Router;
use consumer::WorkerBuilder;
use consumer::dashboard::{DashboardOptions, router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http::{HttpAnswer, HttpRequest};
use crate::{Database, TestDatabase};

/// A dashboard that listens as long as this value lives.
pub struct Served {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    /// Serves the consumers of a worker, with these options.
    pub async fn with<DB: TestDatabase>(
        builder: WorkerBuilder<DB>,
        options: DashboardOptions,
    ) -> Self {
        Self::router(router(builder.admin().expect("an admin"), options)).await
    }

    /// Serves the consumers of a worker, and changes nothing.
    pub async fn read_only<DB: TestDatabase>(builder: WorkerBuilder<DB>) -> Self {
        Self::with(builder, DashboardOptions::new()).await
    }

    /// Serves the consumers of a worker, and allows everything.
    pub async fn operable<DB: TestDatabase>(builder: WorkerBuilder<DB>) -> Self {
        Self::with(builder, DashboardOptions::new().authorize(|_, _| true)).await
    }

    /// Serves what a database has, without the code of any consumer.
    pub async fn of<DB: TestDatabase>(db: &Database<DB>) -> Self {
        let admin = consumer::admin::Admin::new(db.store.clone());
        Self::router(router(admin, DashboardOptions::new())).await
    }

    /// Serves a router.
    pub async fn router(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, task }
    }

    /// Asks for a page.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        HttpRequest::get(self.address, path).send().await
    }

    /// The text of a page that there is.
    pub async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{path}: {text}");
        text
    }

    /// Sends a form as a browser on a page of the same origin does.
    pub async fn post(&self, path: &str, form: &str) -> HttpAnswer {
        let origin = format!("http://{}", self.address);
        let request = HttpRequest::post(self.address, path, form);
        request.header("origin", &origin).send().await
    }

    /// The token of the forms on a page.
    pub async fn token(&self, path: &str) -> String {
        let page = self.page(path).await;
        let (_, after) = page
            .split_once("name=\"token\" value=\"")
            .unwrap_or_else(|| panic!("no form on {path}"));
        after.split('"').next().unwrap_or_default().to_owned()
    }
}
