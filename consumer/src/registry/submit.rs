//! The macros that generated code registers with. They stand here, and not in the attribute, since
//! they depend on the features of this crate.

/// Leaves an entry for the registry.
#[cfg(feature = "auto-register")]
#[doc(hidden)]
#[macro_export]
macro_rules! __submit {
    ($($entry:tt)*) => {
        $crate::__private::inventory::submit! { $($entry)* }
    };
}

/// Checks the entry and leaves none: without `auto-register` consumers are registered by hand.
#[cfg(not(feature = "auto-register"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __submit {
    ($($entry:tt)*) => {
        const _: $crate::__private::Entry = { $($entry)* };
    };
}

/// The factory of a consumer for the database that a connection belongs to.
#[doc(hidden)]
#[macro_export]
macro_rules! __factory {
    ($connection:ty, $consumer:ty) => {
        &{
            #[allow(unused_imports)]
            use $crate::__private::NoMaking as _;
            $crate::__private::Making::<$connection, $consumer>::WAY.factories::<$consumer>()
        }
    };
}

/// No factory. The consumer is mentioned nevertheless: it is no dead code, since another program may
/// have a driver for it.
#[doc(hidden)]
#[macro_export]
macro_rules! __no_factory {
    ($consumer:ty) => {
        &{
            let _ = <$consumer as $crate::__private::OneConsumerBlockForEachType>::construct;
            $crate::__private::NO_FACTORIES
        }
    };
}

/// The factory of a consumer of every database, for SQLite.
#[cfg(feature = "sqlite")]
#[doc(hidden)]
#[macro_export]
macro_rules! __sqlite_factory {
    ($consumer:ty) => {
        $crate::__factory!($crate::sqlx::SqliteConnection, $consumer)
    };
}

/// Nothing, since the driver is not compiled in.
#[cfg(not(feature = "sqlite"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __sqlite_factory {
    ($consumer:ty) => {
        $crate::__no_factory!($consumer)
    };
}

/// The factory of a consumer of every database, for Postgres.
#[cfg(feature = "postgres")]
#[doc(hidden)]
#[macro_export]
macro_rules! __postgres_factory {
    ($consumer:ty) => {
        $crate::__factory!($crate::sqlx::PgConnection, $consumer)
    };
}

/// Nothing, since the driver is not compiled in.
#[cfg(not(feature = "postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __postgres_factory {
    ($consumer:ty) => {
        $crate::__no_factory!($consumer)
    };
}
