//! A consumer whose rows the library keeps, which does what its events tell it to.

use std::sync::Arc;

use consumer::read_model::{self, Keys, Rows, Table};
use consumer::{
    BatchError, Consumer, Context, EventFormat, Fold, Formerly, HandlerError, PersistedEvent,
    ReadModel, Registered, Settings,
};

use super::backend::HistoryBackend;
use super::model::{Id, Verdict};
use super::scripted::{NAMES, ScriptedConsumer, World};
use super::step::Release;

/// The name of the consumer.
pub(super) const FOLD: &str = NAMES[3];

/// The name of its view. The tables of its versions begin with it, too.
pub(super) const VIEW: &str = "history_totals";

/// The row of an aggregate.
#[derive(ReadModel, Clone, Debug)]
#[read_model(table = "history_totals")]
pub(super) struct Total {
    #[read_model(key)]
    id: String,
    /// The version that has written it.
    version: i64,
    /// How many events it has.
    count: i64,
    /// Their positions in the order in which they were applied, each after a space.
    positions: String,
    #[read_model(position)]
    as_of: i64,
}

impl Total {
    /// Whether its columns fit together, and it is a row of that version.
    fn check(&self, id: Id) -> Verdict {
        let positions = self.positions();
        let is_own = self.version == i64::from(id.1);
        let is_whole =
            (self.count, Some(&self.as_of)) == (positions.len() as i64, positions.last());
        if is_own && is_whole {
            Ok(())
        } else {
            Err(format!("a row of {id:?} contradicts itself: {self:?}"))
        }
    }

    fn positions(&self) -> Vec<i64> {
        let positions = self.positions.split_whitespace();
        positions
            .map(|position| position.parse().expect("a position"))
            .collect()
    }
}

/// The SQL of a row's text, which [`events`] reads.
pub(super) const AS_TEXT: &str =
    "id || '|' || CAST(version AS TEXT) || '|' || CAST(count AS TEXT) || '|'
     || CAST(as_of AS TEXT) || '|' || positions";

/// The events in the rows of a version.
pub(super) fn events(id: Id, rows: &[String]) -> Verdict<Vec<(Id, i64)>> {
    let mut events = Vec::new();
    for row in rows {
        let parts: Vec<&str> = row.split('|').collect();
        let number = |at: usize| -> i64 { parts[at].parse().expect("a number") };
        let total = Total {
            id: parts[0].to_owned(),
            version: number(1),
            count: number(2),
            positions: parts[4].to_owned(),
            as_of: number(3),
        };
        total.check(id)?;
        events.extend(total.positions().into_iter().map(|position| (id, position)));
    }
    Ok(events)
}

/// A release of the consumer, as code.
pub(super) struct ScriptedFold(ScriptedConsumer);

impl ScriptedFold {
    pub(super) fn registered<DB: HistoryBackend>(
        release: &Release,
        world: &Arc<World>,
    ) -> Registered<DB> {
        Registered::new(Self(ScriptedConsumer::new(FOLD, release, world)))
    }
}

impl Fold for ScriptedFold {
    type Row = Total;

    fn keys(
        &self,
        _: &Context,
        event: &PersistedEvent,
        keys: &mut Keys<'_, String>,
    ) -> Result<(), HandlerError> {
        if self.0.ignores(event) {
            return Ok(());
        }
        keys.add_aggregate(event)
    }

    fn fold(
        &self,
        cx: &Context,
        event: &PersistedEvent,
        rows: &mut Rows<'_, Total>,
    ) -> Result<(), HandlerError> {
        if self.0.ignores(event) {
            return Ok(());
        }
        // It cannot wait for a fuse, as none asks it to.
        self.0.begin(cx, event);
        let id = event.aggregate_id.clone();
        let total = rows.row(&id)?.get_or_insert_with(|| Total {
            id,
            version: cx.version().into(),
            count: 0,
            positions: String::new(),
            as_of: 0,
        });
        // Changed before the failure, so it must not be written.
        total.count += 1;
        total.positions = format!("{} {}", total.positions, event.global_position);
        self.0.fold(cx, event)
    }
}

impl<DB: HistoryBackend> Consumer<DB> for ScriptedFold {
    fn name(&self) -> &str {
        FOLD
    }

    fn formerly(&self) -> Formerly {
        Formerly::None
    }

    fn settings(&self) -> Settings {
        Consumer::<DB>::settings(&self.0)
    }

    fn knows(&self, format: EventFormat<'_>) -> bool {
        self.0.knows_format(format)
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(Total::TABLE)
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let handled =
            read_model::fold_batch::<DB, _>(self, cx, tx, std::slice::from_ref(event)).await;
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

    async fn reset(&self, cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
        read_model::clear::<DB, Total>(cx, tx).await
    }
}
