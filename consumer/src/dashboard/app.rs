//! The state that the pages of one dashboard share.

use std::sync::Arc;

use axum::http::request::Parts;

use super::options::{Action, ActionKind, Authorize, DashboardOptions};
use super::security::Tokens;
use super::snapshots::Snapshots;
use crate::admin::Admin;
use crate::backend::{Backend, ConsumerId};

/// The state of the router.
pub(super) type Shared<DB> = Arc<App<DB>>;

/// The state that the pages of one dashboard share.
pub(super) struct App<DB: Backend> {
    pub(super) admin: Admin<DB>,
    authorize: Option<Authorize>,
    pub(super) snapshots: Snapshots,
    pub(super) tokens: Tokens,
}

impl<DB: Backend> App<DB> {
    pub(super) fn new(admin: Admin<DB>, options: DashboardOptions) -> Self {
        Self {
            admin,
            authorize: options.authorize,
            snapshots: Snapshots::default(),
            tokens: Tokens::default(),
        }
    }

    /// Whether no one may do anything.
    pub(super) fn is_read_only(&self) -> bool {
        self.authorize.is_none()
    }

    /// Whether the program allows a request to do something.
    pub(super) fn allows(&self, request: &Parts, action: &Action) -> bool {
        let authorize = self.authorize.as_ref();
        authorize.is_some_and(|authorize| authorize(request, action))
    }

    /// Those of some actions on a consumer that a request may do.
    pub(super) fn allowed(
        &self,
        request: &Parts,
        consumer: &ConsumerId,
        kinds: impl IntoIterator<Item = ActionKind>,
    ) -> Vec<ActionKind> {
        let mut kinds: Vec<ActionKind> = kinds.into_iter().collect();
        kinds.retain(|&kind| {
            let consumer = consumer.clone();
            self.allows(request, &Action { consumer, kind })
        });
        kinds
    }
}
