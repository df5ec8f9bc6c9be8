use consumer::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Moved(String, String);

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Deleted();

fn main() {}
