//! The macros with which generated code registers consumers. They are here because they depend on the
//! features of this crate, which the attribute does not know.

/// Submits an entry to the registry.
#[cfg(feature = "auto-register")]
#[doc(hidden)]
#[macro_export]
macro_rules! __submit {
    ($($entry:tt)*) => {
        $crate::__private::inventory::submit! { $($entry)* }
    };
}

/// Type-checks the entry only: without `auto-register` consumers are registered by hand.
#[cfg(not(feature = "auto-register"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __submit {
    ($($entry:tt)*) => {
        const _: $crate::__private::Entry = { $($entry)* };
    };
}

/// The factory of a consumer for the database of a connection.
#[doc(hidden)]
#[macro_export]
macro_rules! __factory {
    ($connection:ty, $consumer:ty) => {
        &{
            #[allow(unused_imports)]
            use $crate::__private::NoFactory as _;
            $crate::__private::FactoryFor::<$connection, $consumer>::FACTORY
                .factories::<$consumer>()
        }
    };
    ($connection:ty, $consumer:ty, $fold:ty) => {
        &{
            #[allow(unused_imports)]
            use $crate::__private::NoFoldFactory as _;
            $crate::__private::FoldFactory::<$connection, $consumer, $fold>::FACTORY
                .factories::<$consumer>()
        }
    };
}

/// No factory. It mentions the consumer, which is not dead code: another program may have the driver.
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
    ($consumer:ty $(, $fold:ty)?) => {
        $crate::__factory!($crate::sqlx::SqliteConnection, $consumer $(, $fold)?)
    };
}

/// No factory, since the driver is not compiled in.
#[cfg(not(feature = "sqlite"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __sqlite_factory {
    ($consumer:ty $(, $fold:ty)?) => {
        $crate::__no_factory!($consumer)
    };
}

/// The factory of a consumer of every database, for Postgres.
#[cfg(feature = "postgres")]
#[doc(hidden)]
#[macro_export]
macro_rules! __postgres_factory {
    ($consumer:ty $(, $fold:ty)?) => {
        $crate::__factory!($crate::sqlx::PgConnection, $consumer $(, $fold)?)
    };
}

/// No factory, since the driver is not compiled in.
#[cfg(not(feature = "postgres"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __postgres_factory {
    ($consumer:ty $(, $fold:ty)?) => {
        $crate::__no_factory!($consumer)
    };
}
