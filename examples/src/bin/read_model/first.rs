//! The read model of the first release.

use consumer::prelude::*;

use crate::app::UserEvent;

/// A row of the table `users_v1`, which the view `users` shows.
#[derive(ReadModel)]
#[read_model(table = "users")]
pub(crate) struct User {
    #[read_model(key)]
    pub(crate) id: String,
    #[read_model(index)]
    pub(crate) email: String,
}

pub(crate) struct Users;

#[consumer(name = "users", aggregates = [UserEvent], read_model = User)]
impl Users {
    #[on]
    fn changed(user: &mut Option<User>, event: Envelope<'_, UserEvent>) {
        let id = event.aggregate_id.clone();
        *user = match event.payload {
            UserEvent::Registered { email } | UserEvent::EmailChanged { email } => {
                Some(User { id, email })
            }
            UserEvent::Deleted => None,
        };
    }
}
