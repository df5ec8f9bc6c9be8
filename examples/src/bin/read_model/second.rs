//! The read model of the second release: it also counts the changes of each address.

use consumer::prelude::*;

use crate::app::UserEvent;

/// A row of the table `users_v2`.
#[derive(ReadModel)]
#[read_model(table = "users")]
pub(crate) struct User {
    #[read_model(key)]
    pub(crate) id: String,
    #[read_model(index)]
    pub(crate) email: String,
    pub(crate) changes: i64,
}

pub(crate) struct Users;

#[consumer(name = "users", aggregates = [UserEvent], read_model = User, version = 2)]
impl Users {
    #[on]
    fn changed(user: &mut Option<User>, event: Envelope<'_, UserEvent>) {
        let id = event.aggregate_id.clone();
        *user = match event.payload {
            UserEvent::Registered { email } => Some(User {
                id,
                email,
                changes: 0,
            }),
            UserEvent::EmailChanged { email } => Some(User {
                id,
                email,
                changes: user.as_ref().map_or(0, |user| user.changes) + 1,
            }),
            UserEvent::Deleted => None,
        };
    }
}
