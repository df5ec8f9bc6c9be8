//! The command `dashboard`.

use super::args::Dashboard;
use super::console::Console;
use super::error::Outcome;
use super::exit::Exit;
use crate::admin::Admin;
use crate::backend::Backend;
use crate::dashboard::serve::Server;
use crate::dashboard::{DashboardOptions, router};
use crate::worker::shutdown_signal;

impl Dashboard {
    /// Serves the pages until the process is asked to end.
    pub(super) async fn run<DB: Backend>(self, admin: Admin<DB>, console: &Console) -> Outcome {
        let server = Server::listen(self.listen, self.password_file.as_deref()).await?;
        console.line(format!("http://{}", server.address()));
        let mut options = DashboardOptions::new();
        if self.allow_actions {
            options = options.authorize(|_, _| true);
        }
        server
            .serve(router(admin, options), shutdown_signal())
            .await?;
        Ok(Exit::Done)
    }
}
