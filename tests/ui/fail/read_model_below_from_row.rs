//! A derive is not given the lists above it.
use consumer::prelude::*;
use consumer::sqlx::{self, FromRow};

#[derive(FromRow)]
#[derive(ReadModel)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    email: String,
}

/// A person.
#[derive(Debug)]
#[derive(
    Clone, // it's one of several ]
    sqlx::FromRow,
)]
/// With "] a bracket.
#[doc = r#"") and " another"#]
/* /* [ */ */
#[cfg_attr(all(), allow(dead_code))]
#[derive(PartialEq)]
#[cfg_attr(all(), derive(consumer::ReadModel))]
#[cfg_attr(all(), read_model(table = "people"))]
struct Person {
    #[read_model(key)]
    id: String,
    email: String,
}

mod inner {
    use super::*;

    #[derive(ReadModel)]
    #[read_model(table = "guests")]
    #[doc = "below"]
    #[cfg_attr(all(), derive(FromRow))]
    struct Guest {
        #[read_model(key)]
        id: String,
        email: String,
    }

    pub fn read_guest() {
        read::<Guest>();
    }
}

// The lists of another item, of comments and of documentation derive nothing for this one.
#[derive(FromRow)]
struct Other(#[allow(dead_code)] String);
// #[derive(FromRow)]
/* #[derive(FromRow)] */
/// #[derive(FromRow)]
#[doc = "#[derive(FromRow)]"]
#[cfg_attr(any(), derive(FromRow))]
#[derive(ReadModel)]
#[read_model(table = "customers")]
struct Customer {
    #[read_model(key)]
    id: String,
    email: String,
}

// Another crate's trait of that name is in the way of nothing.
mod other {
    pub use std::fmt::Debug as FromRow;
}

#[derive(other::FromRow)]
#[derive(ReadModel)]
#[read_model(table = "members")]
struct Member {
    #[read_model(key)]
    id: String,
    email: String,
}

macro_rules! rows {
    ($($table:literal $name:ident)*) => {$(
        #[derive(ReadModel)]
        #[read_model(table = $table)]
        struct $name {
            #[read_model(key)]
            id: String,
            email: String,
        }
    )*};
}

#[derive(FromRow)]
struct Another(#[allow(dead_code)] String);
rows! { "lines" Line }

fn read<'r, T: FromRow<'r, sqlx::sqlite::SqliteRow>>() {}

fn main() {
    read::<User>();
    read::<Person>();
    inner::read_guest();
    read::<Other>();
    read::<Customer>();
    read::<Member>();
    read::<Another>();
    read::<Line>();
}
