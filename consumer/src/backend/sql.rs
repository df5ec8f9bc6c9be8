//! Statements, rendered once from their templates.

use std::sync::Arc;

use sqlx::database::HasStatementCache;
use sqlx::query::{Query, QueryScalar};
use sqlx::{AssertSqlSafe, Database, FromRow};

use super::Schema;

/// What the SQL of a store depends on.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub(crate) schema: Schema,
    /// Whether appends notify.
    pub(crate) notify: bool,
    /// Whether statements are prepared under a name, to be run again.
    pub(crate) keep_statements: bool,
}

/// One statement; cheap to run again and again.
#[derive(Clone)]
pub(crate) struct Sql {
    text: Arc<str>,
    keep: bool,
}

impl Sql {
    pub(crate) fn new(settings: &StoreSettings, text: &str) -> Self {
        Self {
            text: settings.schema.render(text).into(),
            keep: settings.keep_statements,
        }
    }

    /// The statement, ready for its parameters.
    pub(crate) fn query<DB: Database + HasStatementCache>(
        &self,
    ) -> Query<'static, DB, DB::Arguments> {
        sqlx::query(self.safe()).persistent(self.keep)
    }

    /// The statement, of whose result one value counts.
    pub(crate) fn scalar<DB: Database + HasStatementCache, T>(
        &self,
    ) -> QueryScalar<'static, DB, T, DB::Arguments>
    where
        (T,): for<'r> FromRow<'r, DB::Row>,
    {
        sqlx::query_scalar(self.safe()).persistent(self.keep)
    }

    /// Only rendered statements get here: constants of the dialects, with checked identifiers.
    pub(crate) fn safe(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.text))
    }
}

impl AsRef<str> for Sql {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Makes a struct of statements, each rendered once from its template.
macro_rules! statements {
    ($(#[$attribute:meta])* $vis:vis $name:ident { $($field:ident: $template:expr),+ $(,)? }) => {
        $(#[$attribute])*
        $vis struct $name { $($field: crate::backend::Sql),+ }

        impl $name {
            fn new(settings: &crate::backend::StoreSettings) -> Self {
                Self { $($field: crate::backend::Sql::new(settings, $template)),+ }
            }
        }
    };
}
pub(crate) use statements;
