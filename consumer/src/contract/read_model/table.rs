//! The table of a read model: its name and its columns.

use super::column_type::ColumnType;
use super::field::Field;
use super::key::KeyField;

/// The table of a [`ReadModel`](crate::ReadModel), which the library creates, compares with the
/// struct, and writes.
///
/// Version *n* of a consumer writes the table `<name>_v<n>`.
///
/// ```
/// use consumer::read_model::{Table, TableColumn};
///
/// const USERS: &Table = &Table::new(
///     "users",
///     &[
///         TableColumn::key::<String>("id"),
///         TableColumn::of::<String>("email").indexed(),
///         TableColumn::of::<Option<i64>>("age"),
///         TableColumn::other("balance", "numeric(20, 2)", false),
///         TableColumn::position("as_of"),
///     ],
/// );
/// assert_eq!(USERS.name, "users");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// The name without the version, with or without a schema: `users`, `reports.users`.
    pub name: &'static str,
    /// The columns, in the order of the fields.
    pub columns: &'static [TableColumn],
}

/// A column of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableColumn {
    /// The name.
    pub name: &'static str,
    /// The type of its values.
    pub column_type: ColumnType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Its role.
    pub role: ColumnRole,
}

/// The role of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnRole {
    /// It is (part of) the primary key.
    Key,
    /// It holds the position of the last event that changed the row.
    Position,
    /// It has an index.
    Indexed,
    /// None of these.
    Plain,
}

/// The longest name that Postgres keeps.
const LONGEST_NAME: usize = 63;

impl Table {
    /// Describes a table.
    ///
    /// # Panics
    /// At compile time if evaluated as a constant: without a key, with two `position` columns, with
    /// two columns of one name, or with a name that is empty or too long.
    #[must_use]
    pub const fn new(name: &'static str, columns: &'static [TableColumn]) -> Self {
        assert!(!name.is_empty(), "a read model needs the name of its table");
        let (mut keys, mut positions) = (0, 0);
        let mut rest = columns;
        while let [column, later @ ..] = rest {
            match column.role {
                ColumnRole::Key => keys += 1,
                ColumnRole::Position => positions += 1,
                ColumnRole::Indexed | ColumnRole::Plain => {}
            }
            assert!(
                !column.name.is_empty() && column.name.len() <= LONGEST_NAME,
                "the name of a column has 1 to 63 bytes"
            );
            assert!(
                !contains(later, column.name),
                "two columns of a read model have the same name"
            );
            rest = later;
        }
        assert!(
            keys > 0,
            "a read model needs a key: mark its field with `#[read_model(key)]`"
        );
        assert!(positions <= 1, "a read model has at most one `position`");
        Self { name, columns }
    }

    /// Returns the columns of the primary key, in order.
    pub fn key(&self) -> impl Iterator<Item = &'static TableColumn> + Clone {
        let columns = self.columns.iter();
        columns.filter(|column| matches!(column.role, ColumnRole::Key))
    }

    /// The schema that the name gives, if any.
    pub(crate) fn schema(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(schema, _)| schema)
    }

    /// The name without the schema.
    pub(crate) fn bare_name(&self) -> &'static str {
        let named = self.name.split_once('.');
        named.map_or(self.name, |(_, name)| name)
    }

    /// Returns the index of the `position` column, if there is one.
    pub(crate) fn position_index(&self) -> Option<usize> {
        let mut columns = self.columns.iter();
        columns.position(|column| matches!(column.role, ColumnRole::Position))
    }
}

impl TableColumn {
    /// Describes the column of a field.
    #[must_use]
    pub const fn of<F: Field>(name: &'static str) -> Self {
        Self {
            name,
            column_type: F::COLUMN_TYPE,
            nullable: F::NULLABLE,
            role: ColumnRole::Plain,
        }
    }

    /// Describes a column of the primary key.
    #[must_use]
    pub const fn key<F: KeyField>(name: &'static str) -> Self {
        Self {
            role: ColumnRole::Key,
            ..Self::of::<F>(name)
        }
    }

    /// Describes the column for the position of the last event that changed the row.
    #[must_use]
    pub const fn position(name: &'static str) -> Self {
        Self {
            role: ColumnRole::Position,
            ..Self::of::<i64>(name)
        }
    }

    /// Describes a column of another type of the database, whose values travel as text.
    ///
    /// # Panics
    /// At compile time if evaluated as a constant: with an `sql_type` that is an array or more than the
    /// name of a type.
    #[must_use]
    pub const fn other(name: &'static str, sql_type: &'static str, nullable: bool) -> Self {
        assert!(
            is_type(sql_type.as_bytes()),
            "an `sql_type` is the name of a type, such as `numeric(20, 2)`, and not an array"
        );
        Self {
            name,
            column_type: ColumnType::Other(sql_type),
            nullable,
            role: ColumnRole::Plain,
        }
    }

    /// Adds an index to a column that is not part of the key.
    #[must_use]
    pub const fn indexed(mut self) -> Self {
        if matches!(self.role, ColumnRole::Plain) {
            self.role = ColumnRole::Indexed;
        }
        self
    }
}

/// The table of one version of a consumer, which a [`ReadModelDatabase`](super::ReadModelDatabase) reads and
/// writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionTable<'a> {
    table: &'static Table,
    version: u32,
    schema: Option<&'a str>,
}

impl<'a> VersionTable<'a> {
    /// Names the table of a version, in a schema unless the name of the table gives one.
    #[must_use]
    pub const fn new(table: &'static Table, version: u32, schema: Option<&'a str>) -> Self {
        Self {
            table,
            version,
            schema,
        }
    }

    /// Returns the columns and the name without the version.
    #[must_use]
    pub const fn table(&self) -> &'static Table {
        self.table
    }

    /// Returns the version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Returns the schema that the name gives or that was resolved at start, if any.
    #[must_use]
    pub fn schema(&self) -> Option<&'a str> {
        self.table.schema().or(self.schema)
    }

    /// Returns the name of the view over the active version, without the schema.
    #[must_use]
    pub fn view_name(&self) -> &'static str {
        self.table.bare_name()
    }

    /// Returns the name of the table, without the schema.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}_v{}", self.view_name(), self.version)
    }
}

/// Whether a text can only be the name of a type, which becomes part of statements.
const fn is_type(mut text: &[u8]) -> bool {
    let is_empty = text.is_empty();
    while let [byte, rest @ ..] = text {
        if !(byte.is_ascii_alphanumeric()
            || matches!(byte, b' ' | b'_' | b'.' | b',' | b'(' | b')' | b'"'))
        {
            return false;
        }
        text = rest;
    }
    !is_empty
}

const fn contains(columns: &[TableColumn], name: &str) -> bool {
    let mut rest = columns;
    while let [column, later @ ..] = rest {
        if is_same(column.name.as_bytes(), name.as_bytes()) {
            return true;
        }
        rest = later;
    }
    false
}

const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([first, one_rest @ ..], [second, other_rest @ ..]) = (one, other) {
        if *first != *second {
            return false;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

#[cfg(test)]
mod tests {
    use super::{Table, TableColumn, VersionTable};

    const COLUMNS: &[TableColumn] = &[TableColumn::key::<String>("id")];

    #[test]
    fn a_version_adds_its_number_to_the_name() {
        const USERS: &Table = &Table::new("users", COLUMNS);
        let table = VersionTable::new(USERS, 3, Some("public"));
        assert_eq!(table.name(), "users_v3");
        assert_eq!(
            (table.schema(), table.view_name()),
            (Some("public"), "users")
        );
    }

    #[test]
    fn a_schema_in_the_name_wins() {
        const USERS: &Table = &Table::new("reports.users", COLUMNS);
        let table = VersionTable::new(USERS, 1, Some("public"));
        assert_eq!(table.name(), "users_v1");
        assert_eq!(
            (table.schema(), table.view_name()),
            (Some("reports"), "users")
        );
    }
}
