//! Which lanes there are: one for each checkpoint row of the worker's consumers.
//!
//! The rows are the truth. The setting `segments` seeds them and divides them further; a process
//! set to fewer lanes runs the same rows, as many of them at once as it may.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::board::{Board, Cell};
use super::dialect::{Checkpoint, Enrolment, LaneKey, WorkerBackend};
use super::feed::SLICES;
use super::shared::Survey;
use crate::contract::Settings;
use crate::registry::Registered;

/// A consumer of the worker, with what its lanes share.
pub(crate) struct Post<DB: WorkerBackend> {
    pub(crate) registered: Registered<DB>,
    pub(crate) settings: Settings,
    pub(crate) scope: Arc<[Arc<str>]>,
    pub(crate) enrolment: Enrolment,
    /// As many batches of it may be at work at once in this process.
    pub(crate) lanes: Semaphore,
}

impl<DB: WorkerBackend> Post<DB> {
    pub(crate) fn new(registered: Registered<DB>) -> Self {
        let declaration = &registered.declaration;
        let settings = declaration.settings.clone();
        let segments = settings.segments.clamp(1, 64).next_power_of_two();
        let width = u32::from(SLICES) / segments;
        Self {
            scope: declaration.scope.clone().into(),
            enrolment: Enrolment {
                consumer: Arc::clone(&declaration.name),
                version: i32::try_from(declaration.version).unwrap_or(i32::MAX),
                width: i32::try_from(width).unwrap_or(i32::from(SLICES)),
                scope: scope_text(&declaration.scope),
                start_from: settings.start_from,
            },
            lanes: Semaphore::new(usize::try_from(segments).unwrap_or(1)),
            settings,
            registered,
        }
    }

    /// Whether a checkpoint row is one of its own.
    pub(crate) fn has(&self, key: &LaneKey) -> bool {
        key.consumer == self.enrolment.consumer && key.version == self.enrolment.version
    }

    /// Where a row has to be divided, if it is wider than the consumer wants.
    pub(crate) fn split_at(&self, row: &Checkpoint) -> Option<i32> {
        let width = row.slice_to - row.key.slice_from;
        (self.has(&row.key) && width > self.enrolment.width).then(|| row.key.slice_from + width / 2)
    }
}

/// The scope as the checkpoint row keeps it: the types in order, a line each; empty for all.
pub(crate) fn scope_text(scope: &[Arc<str>]) -> Arc<str> {
    let mut kinds: Vec<&str> = scope.iter().map(|kind| &**kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.join("\n").into()
}

/// A lane that is to be opened.
pub(crate) struct Vacancy<DB: WorkerBackend> {
    /// The number of the survey that shows its row first.
    pub(crate) survey: u64,
    pub(crate) post: Arc<Post<DB>>,
    pub(crate) cell: Arc<Cell>,
}

/// Keeps a lane for each row.
pub(crate) struct Roster<DB: WorkerBackend> {
    pub(crate) posts: Vec<Arc<Post<DB>>>,
    pub(crate) board: Arc<Board>,
    pub(crate) vacancies: mpsc::UnboundedSender<Vacancy<DB>>,
}

impl<DB: WorkerBackend> Roster<DB> {
    /// Opens a lane for each row that has none. The board comes in line with the rows before any
    /// lane sees them: whoever waits for a consumer must wait for all its rows.
    pub(crate) fn update(&self, survey: &Survey) {
        let posts: HashMap<(&str, i32), &Arc<Post<DB>>> = self
            .posts
            .iter()
            .map(|post| ((&*post.enrolment.consumer, post.enrolment.version), post))
            .collect();
        let post_of = |key: &LaneKey| posts.get(&(&*key.consumer, key.version)).copied();
        let mut own: Vec<&Checkpoint> = survey
            .rows
            .values()
            .filter(|row| post_of(&row.key).is_some())
            .collect();
        own.sort_by_key(|row| (&row.key.consumer, row.key.version, row.key.slice_from));
        for cell in self.board.seat(&own) {
            let Some(post) = post_of(&cell.key) else {
                continue;
            };
            // The worker that opens lanes is gone only when it shuts down.
            let _ = self.vacancies.send(Vacancy {
                survey: survey.number,
                post: Arc::clone(post),
                cell,
            });
        }
    }
}
