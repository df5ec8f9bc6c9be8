//! Consumers with a read model whose fold is a closure.

use std::marker::PhantomData;

use consumer::read_model::{self, Keys, ReadModelDatabase, Rows, Table};
use consumer::{
    BatchError, Consumer, Context, EventFormat, Fold, Formerly, HandlerError, PersistedEvent,
    ReadModel, Settings,
};

type NameKeys<R> = dyn Fn(&Context, &PersistedEvent, &mut Keys<'_, <R as ReadModel>::Key>) -> Result<(), HandlerError>
    + Send
    + Sync;

type Apply<R> =
    dyn Fn(&Context, &PersistedEvent, &mut Rows<'_, R>) -> Result<(), HandlerError> + Send + Sync;

/// A consumer whose fold is two closures.
pub struct Folding<R: ReadModel> {
    name: &'static str,
    settings: Settings,
    knows: Box<dyn Fn(EventFormat<'_>) -> bool + Send + Sync>,
    keys: Box<NameKeys<R>>,
    apply: Box<Apply<R>>,
    row: PhantomData<fn() -> R>,
}

/// A consumer that names the rows of each event by `keys`, and changes them by `apply`.
pub fn folding<R: ReadModel>(
    name: &'static str,
    keys: impl Fn(&Context, &PersistedEvent, &mut Keys<'_, R::Key>) -> Result<(), HandlerError>
    + Send
    + Sync
    + 'static,
    apply: impl Fn(&Context, &PersistedEvent, &mut Rows<'_, R>) -> Result<(), HandlerError>
    + Send
    + Sync
    + 'static,
) -> Folding<R> {
    Folding {
        name,
        settings: Settings::default(),
        knows: Box::new(|_| true),
        keys: Box::new(keys),
        apply: Box::new(apply),
        row: PhantomData,
    }
}

impl<R: ReadModel> Folding<R> {
    /// Sets its settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets which types and versions of events it knows; all of them by default.
    #[must_use]
    pub fn knows(
        mut self,
        knows: impl Fn(EventFormat<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.knows = Box::new(knows);
        self
    }
}

impl<R: ReadModel> Fold for Folding<R> {
    type Row = R;

    fn keys(
        &self,
        cx: &Context,
        event: &PersistedEvent,
        keys: &mut Keys<'_, R::Key>,
    ) -> Result<(), HandlerError> {
        (self.keys)(cx, event, keys)
    }

    fn fold(
        &self,
        cx: &Context,
        event: &PersistedEvent,
        rows: &mut Rows<'_, R>,
    ) -> Result<(), HandlerError> {
        (self.apply)(cx, event, rows)
    }
}

impl<DB: ReadModelDatabase, R: ReadModel> Consumer<DB> for Folding<R> {
    fn name(&self) -> &str {
        self.name
    }

    fn formerly(&self) -> Formerly {
        Formerly::None
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let batch = std::slice::from_ref(event);
        let handled = read_model::fold_batch::<DB, _>(self, cx, tx, batch).await;
        handled.map(drop).map_err(|failed| failed.error)
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        read_model::fold_batch::<DB, _>(self, cx, tx, events).await
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn knows(&self, format: EventFormat<'_>) -> bool {
        (self.knows)(format)
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(R::TABLE)
    }

    fn only_folds(&self) -> bool {
        true
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn reset(&self, cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
        read_model::clear::<DB, R>(cx, tx).await
    }
}
