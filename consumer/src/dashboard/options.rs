//! The actions that a program allows the readers of its dashboard.

use std::fmt;
use std::sync::Arc;

use axum::http::request::Parts;

use crate::backend::ConsumerId;

/// Asks the program whether a request may do something.
pub(super) type Authorize = Arc<dyn Fn(&Parts, &Action) -> bool + Send + Sync>;

/// Options of [`router`](super::router).
///
/// ```
/// use consumer::dashboard::DashboardOptions;
///
/// /// The user, as a layer of the program's own has found out.
/// #[derive(Clone)]
/// struct User {
///     is_operator: bool,
/// }
///
/// let options = DashboardOptions::new().authorize(|request, action| {
///     let user = request.extensions.get::<User>();
///     println!("{} of {}", action.kind.name(), action.consumer);
///     user.is_some_and(|user| user.is_operator)
/// });
/// ```
#[derive(Clone, Default)]
pub struct DashboardOptions {
    pub(super) authorize: Option<Authorize>,
}

impl fmt::Debug for DashboardOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DashboardOptions")
            .field("is_read_only", &self.authorize.is_none())
            .finish_non_exhaustive()
    }
}

impl DashboardOptions {
    /// Returns options that refuse every action.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows the actions for which a function returns true.
    ///
    /// It is asked twice: when a page is shown, about each action that the page could offer, and again when
    /// the form of one is sent. It gets the head of the request, with the extensions that the program's
    /// layers have added, such as the user. It must not block.
    #[must_use]
    pub fn authorize(
        mut self,
        authorize: impl Fn(&Parts, &Action) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Arc::new(authorize));
        self
    }
}

/// Something that a reader of the dashboard wants to do; see [`DashboardOptions::authorize`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Action {
    /// The consumer that it changes.
    pub consumer: ConsumerId,
    /// The kind of action.
    pub kind: ActionKind,
}

/// The kind of an [`Action`]; each is a method of [`Admin`](crate::admin::Admin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActionKind {
    /// Pauses the consumer.
    Pause,
    /// Resumes it.
    Resume,
    /// Parks the event at which it has stopped, and resumes it.
    Park {
        /// The event.
        position: i64,
    },
    /// Skips the event at which it has stopped, and resumes it.
    Skip {
        /// The event.
        position: i64,
    },
    /// Handles parked events: those of one event's aggregate, or all.
    RetryParked {
        /// An event of the aggregate.
        position: Option<i64>,
    },
    /// Removes a parked event without handling it.
    SkipParked {
        /// The event.
        position: i64,
    },
    /// Empties the read model and handles all events again.
    Rebuild {
        /// Whether parked events are delivered again as new ones.
        discard_parked: bool,
    },
    /// Makes the version the active one.
    Activate {
        /// Whether to activate it even if it is behind or has parked events.
        force: bool,
    },
    /// Accepts the scope in the code without a rebuild.
    AcceptScope,
    /// Removes the checkpoint of a detached consumer or an old version.
    Forget {
        /// Whether parked events are never handled.
        discard_parked: bool,
    },
}

impl ActionKind {
    /// Returns the name, as on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Park { .. } => "park",
            Self::Skip { .. } => "skip",
            Self::RetryParked { .. } => "retry-parked",
            Self::SkipParked { .. } => "skip-parked",
            Self::Rebuild { .. } => "rebuild",
            Self::Activate { .. } => "activate",
            Self::AcceptScope => "accept-scope",
            Self::Forget { .. } => "forget",
        }
    }
}
