use consumer::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 2, upcast(1 = returns_another_type))]
struct UserRegistered {
    email: String,
}

fn returns_another_type(_old: Value) -> String {
    String::new()
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 2, upcast(1 = takes_another_type))]
struct UserRenamed {
    name: String,
}

fn takes_another_type(name: String) -> UserRenamed {
    UserRenamed { name }
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User", version = 2, upcast(1 = unknown::function))]
struct UserMoved {
    city: String,
}

fn main() {}
