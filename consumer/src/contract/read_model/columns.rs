//! Walks over the columns of a row in the order of its table, so that an error names the column.

use std::any::type_name;
use std::error::Error;
use std::fmt::Display;
use std::str::FromStr;
use std::vec::IntoIter;

use super::error::{ColumnError, FieldError};
use super::field::Field;
use super::table::Table;
use super::value::Value;

/// Where in a table a walk is.
#[derive(Debug)]
struct Cursor {
    table: &'static Table,
    next: usize,
}

impl Cursor {
    const fn new(table: &'static Table) -> Self {
        Self { table, next: 0 }
    }

    /// Moves to the next column, and names this one in an error.
    fn step<T>(&mut self, result: Result<T, FieldError>) -> Result<T, ColumnError> {
        let column = self.table.columns.get(self.next);
        self.next += 1;
        result.map_err(|error| ColumnError {
            table: self.table.name,
            column: column.map_or("?", |column| column.name),
            error,
        })
    }
}

/// Appends the values of a row's columns, for [`ReadModel::to_values`](crate::ReadModel::to_values).
#[derive(Debug)]
pub struct ColumnWriter<'a> {
    cursor: Cursor,
    values: &'a mut Vec<Value>,
}

impl<'a> ColumnWriter<'a> {
    /// Starts at the first column.
    pub fn new(table: &'static Table, values: &'a mut Vec<Value>) -> Self {
        values.reserve(table.columns.len());
        Self {
            cursor: Cursor::new(table),
            values,
        }
    }

    /// Appends the value of a field.
    ///
    /// # Errors
    /// If it cannot be converted.
    pub fn field<F: Field>(&mut self, field: &F) -> Result<&mut Self, ColumnError> {
        let value = self.cursor.step(field.to_value())?;
        self.values.push(value);
        Ok(self)
    }

    /// Appends the value of a field with an `sql_type`; `None` is NULL.
    pub fn text<T: Display>(&mut self, field: Option<&T>) -> &mut Self {
        let text = field.map(ToString::to_string);
        self.cursor.next += 1;
        self.values.push(text.map_or(Value::Null, Value::Text));
        self
    }
}

/// Takes the values of a row's columns apart, for
/// [`ReadModel::from_values`](crate::ReadModel::from_values).
#[derive(Debug)]
pub struct ColumnReader {
    cursor: Cursor,
    values: IntoIter<Value>,
}

impl ColumnReader {
    /// Starts at the first column.
    #[must_use]
    pub fn new(table: &'static Table, values: Vec<Value>) -> Self {
        Self {
            cursor: Cursor::new(table),
            values: values.into_iter(),
        }
    }

    /// Reads the field of the next column.
    ///
    /// # Errors
    /// If the column holds another type or value than the field can.
    pub fn field<F: Field>(&mut self) -> Result<F, ColumnError> {
        let value = self.values.next().unwrap_or(Value::Null);
        self.cursor.step(F::from_value(value))
    }

    /// Reads a field with an `sql_type`.
    ///
    /// # Errors
    /// If the column is NULL, or its text cannot be read as the field's type.
    pub fn text<T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>>(
        &mut self,
    ) -> Result<T, ColumnError> {
        let text = self.next_text().and_then(|text| match text {
            Some(text) => parse(&text),
            None => Err(no_text(&Value::Null)),
        });
        self.cursor.step(text)
    }

    /// Reads an optional field with an `sql_type`; NULL is `None`.
    ///
    /// # Errors
    /// If the column's text cannot be read as the field's type.
    pub fn optional_text<T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>>(
        &mut self,
    ) -> Result<Option<T>, ColumnError> {
        let text = self.next_text();
        let value = text.and_then(|text| text.as_deref().map(parse).transpose());
        self.cursor.step(value)
    }

    fn next_text(&mut self) -> Result<Option<String>, FieldError> {
        match self.values.next() {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(no_text(&other)),
        }
    }
}

/// Gives the fields of a row their stored form, for
/// [`ReadModel::normalize`](crate::ReadModel::normalize).
#[derive(Debug)]
pub struct ColumnNormalizer {
    cursor: Cursor,
}

impl ColumnNormalizer {
    /// Starts at the first column.
    #[must_use]
    pub fn new(table: &'static Table) -> Self {
        Self {
            cursor: Cursor::new(table),
        }
    }

    /// Gives the field of the next column its stored form.
    ///
    /// # Errors
    /// If no database can store it.
    #[inline]
    pub fn field<F: Field>(&mut self, field: &mut F) -> Result<&mut Self, ColumnError> {
        self.cursor.step(field.normalize())?;
        Ok(self)
    }

    /// Gives a field with an `sql_type` its stored form: what its text is read as.
    ///
    /// # Errors
    /// If its text is read as a value with another text, or not at all.
    pub fn text<T>(&mut self, field: Option<&mut T>) -> Result<&mut Self, ColumnError>
    where
        T: Display + FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
    {
        self.cursor.step(field.map_or(Ok(()), round_trip))?;
        Ok(self)
    }
}

fn round_trip<T>(field: &mut T) -> Result<(), FieldError>
where
    T: Display + FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    let written = field.to_string();
    if written.contains('\0') {
        return Err(FieldError::Nul);
    }
    *field = parse(&written)?;
    let read = field.to_string();
    if read != written {
        return Err(FieldError::Changed { written, read });
    }
    Ok(())
}

fn parse<T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>>(text: &str) -> Result<T, FieldError> {
    text.parse()
        .map_err(|error: T::Err| FieldError::Unreadable {
            text: text.to_owned(),
            type_name: type_name::<T>(),
            source: error.into(),
        })
}

fn no_text(found: &Value) -> FieldError {
    FieldError::OtherType {
        expected: "a text",
        found: found.kind(),
    }
}
