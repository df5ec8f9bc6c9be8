//! A consumer whose rows the library keeps, which does what its events tell it to.

use std::sync::Arc;

use consumer::read_model::{Keys, Rows};
use consumer::{Consumer, Context, HandlerError, PersistedEvent, ReadModel, Registered};

use super::backend::HistoryBackend;
use super::model::{Id, Verdict};
use super::scripted::{NAMES, ScriptedConsumer, World};
use super::step::Release;
use crate::folding;

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
pub(super) fn registered<DB: HistoryBackend>(
    release: &Release,
    world: &Arc<World>,
) -> Registered<DB> {
    let scripted = Arc::new(ScriptedConsumer::new(FOLD, release, world));
    let (naming, knowing) = (Arc::clone(&scripted), Arc::clone(&scripted));
    let settings = Consumer::<DB>::settings(&*scripted);
    let keys = move |_: &Context, event: &PersistedEvent, keys: &mut Keys<'_, String>| {
        if naming.ignores(event) {
            return Ok(());
        }
        keys.add_aggregate(event)
    };
    let apply = move |cx: &Context, event: &PersistedEvent, rows: &mut Rows<'_, Total>| {
        apply(&scripted, cx, event, rows)
    };
    let consumer = folding::<Total>(FOLD, keys, apply).settings(settings);
    Registered::new(consumer.knows(move |format| knowing.knows_format(format)))
}

fn apply(
    scripted: &ScriptedConsumer,
    cx: &Context,
    event: &PersistedEvent,
    rows: &mut Rows<'_, Total>,
) -> Result<(), HandlerError> {
    if scripted.ignores(event) {
        return Ok(());
    }
    // It cannot wait for a fuse, as none asks it to.
    scripted.begin(cx, event);
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
    scripted.fold(cx, event)
}
