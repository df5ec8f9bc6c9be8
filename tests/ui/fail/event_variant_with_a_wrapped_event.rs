use std::borrow::Cow;
use std::sync::Arc;

use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Registered {
    email: String,
}

type Shared = Arc<Registered>;

#[derive(Event)]
#[event(aggregate = "User")]
enum UserEvent {
    InAnArc(Shared),
    InAnOption(Option<Registered>),
    InACow(Cow<'static, Registered>),
    InABox(Box<Option<Registered>>),
    #[event(name = "UserImported")]
    Imported(Arc<Registered>),
}

fn main() {}
