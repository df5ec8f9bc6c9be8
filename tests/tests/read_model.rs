//! Read models: what their handlers do to rows, on both databases.

use consumer::prelude::*;
use consumer::sqlx::Sqlite;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct Registered {
    email: String,
}

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct EmailChanged {
    email: String,
}

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct Deleted {}

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct Referred {
    referrer: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
enum UserEvent {
    Registered(Registered),
    EmailChanged(EmailChanged),
    Deleted(Deleted),
    Referred(Referred),
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(index)]
    email: String,
    changes: i64,
    #[read_model(position)]
    as_of: i64,
}

#[derive(Default)]
struct Users;

#[consumer(name = "users", aggregates = [UserEvent], read_model = User)]
impl Users {
    #[on]
    fn registered(&self, event: Envelope<'_, Registered>) -> User {
        User {
            id: event.aggregate_id.clone(),
            email: event.payload.email,
            changes: 0,
            as_of: 0,
        }
    }

    #[on]
    fn email_changed(&self, user: &mut User, event: EmailChanged) {
        user.email = event.email;
        user.changes += 1;
    }

    #[on]
    fn deleted(user: &mut Option<User>, _event: Deleted) {
        *user = None;
    }

    #[on(key = event.payload.referrer)]
    fn referred(&self, user: &mut User, event: Envelope<'_, Referred>) {
        let _ = event;
        user.changes += 1;
    }
}

#[test]
fn works() {
    let registry = consumer::Registry::<Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 1);
}
