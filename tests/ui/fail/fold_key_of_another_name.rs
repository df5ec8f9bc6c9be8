use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
struct OrderPaid {
    order: String,
    line: i64,
}

#[derive(ReadModel)]
#[read_model(table = "lines")]
struct Line {
    #[read_model(key)]
    order: String,
    #[read_model(key)]
    line: i64,
    cents: i64,
}

struct Lines;

#[consumer(name = "lines", read_model = Line)]
impl Lines {
    #[on(key = (paid.order, event.line))]
    fn paid(&self, line: &mut Line, paid: OrderPaid) {
        line.cents = paid.line;
    }

    #[on("Cancelled", key = (event.aggregate_id.clone(), event.global_position))]
    fn cancelled(&self, line: &mut Option<Line>, _: &PersistedEvent) {
        *line = None;
    }
}

fn main() {}
