//! The rules of `#[derive(ReadModel)]`.

use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Field, Fields, FieldsNamed, Ident, Type};

use super::attributes::Attributes;
use super::from_row::signs_of_from_row;
use super::model::{Column, Content, Model, Role};
use super::names::{mistake_in_column, mistake_in_table, mistake_in_type, suggested_table};
use crate::crate_path;
use crate::errors::Errors;
use crate::keys;
use crate::names::snake_case;
use crate::types::{last_name, option_of, owned, type_arguments, unwrapped, written as text_of};

/// The most fields that a key has.
const MAX_KEYS: usize = 8;

pub(super) fn validate(
    input: &DeriveInput,
    attributes: &Attributes,
    mut errors: Errors,
) -> Result<Model, Errors> {
    refuse_from_row(input, &mut errors);
    let table = table(input, attributes, &mut errors);
    if let Some(krate) = &attributes.values.krate {
        crate_path::refuse_relative(krate, &mut errors);
    }
    let columns =
        fields(input, &mut errors).and_then(|fields| columns(&input.ident, fields, &mut errors));
    match columns {
        Some(columns) if errors.is_empty() => Ok(Model {
            krate: crate_path::or_default(attributes.values.krate.as_ref()),
            ident: input.ident.clone(),
            table,
            columns,
        }),
        _ => Err(errors),
    }
}

fn refuse_from_row(input: &DeriveInput, errors: &mut Errors) {
    for sign in signs_of_from_row(input) {
        errors.at(
            sign,
            "`ReadModel` implements `FromRow`: remove `FromRow` from `derive`, and `#[sqlx(…)]`; `#[read_model(rename = \"…\")]` names a column",
        );
    }
}

fn table(input: &DeriveInput, attributes: &Attributes, errors: &mut Errors) -> String {
    let Some(written) = &attributes.values.table else {
        if !attributes.seems_given(keys::TABLE) {
            let ident = &input.ident;
            let table = suggested_table(&snake_case(&ident.unraw().to_string()));
            errors.at(
                ident,
                format!(
                    "the table of `{ident}` is missing: add `#[read_model(table = \"{table}\")]`"
                ),
            );
        }
        return String::new();
    };
    let table = written.value();
    if let Some(mistake) = mistake_in_table(&table) {
        errors.at(written, mistake);
    }
    table
}

/// The named fields of a struct that is not generic.
fn fields<'a>(input: &'a DeriveInput, errors: &mut Errors) -> Option<&'a FieldsNamed> {
    const ADVICE: &str = "derive `ReadModel` for a struct with a named field for each column";
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            "a read model cannot be generic: write one struct for each table",
        );
        return None;
    }
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => return Some(fields),
            Fields::Unnamed(fields) => errors.at(
                fields,
                format!("the fields of a read model need names, which are its columns: {ADVICE}"),
            ),
            Fields::Unit => errors.at(
                &input.ident,
                format!("`{}` has no fields: {ADVICE}", input.ident),
            ),
        },
        Data::Enum(data) => errors.at(
            data.enum_token,
            format!("an enum cannot be a row: {ADVICE}"),
        ),
        Data::Union(data) => errors.at(
            data.union_token,
            format!("a union cannot be a row: {ADVICE}"),
        ),
    }
    None
}

fn columns(ident: &Ident, fields: &FieldsNamed, errors: &mut Errors) -> Option<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    let mut is_whole = true;
    let mut is_keyed = false;
    for field in &fields.named {
        let attributes = Attributes::of_part(&field.attrs, errors);
        is_keyed |= attributes.seems_given(keys::KEY);
        match column(field, &attributes, &columns, errors) {
            Some(column) => columns.push(column),
            None => is_whole = false,
        }
    }
    if !is_keyed {
        report_no_key(ident, fields, errors);
    } else if is_whole && columns.iter().all(|column| column.role == Role::Key) {
        errors.at(
            ident,
            format!(
                "`{ident}` has no field beside its key: add one, such as `#[read_model(position)] as_of: i64`"
            ),
        );
    }
    is_whole.then_some(columns)
}

/// Names the field that is probably the key.
fn report_no_key(ident: &Ident, fields: &FieldsNamed, errors: &mut Errors) {
    let example = fields
        .named
        .iter()
        .filter_map(|field| field.ident.as_ref())
        .find(|field| *field == "id")
        .map_or("the field that identifies a row", |_| "`id`");
    errors.at(
        ident,
        format!("`{ident}` has no key: mark {example} with `#[read_model(key)]`"),
    );
}

/// The column of one field; `None` after a mistake in it. `before` are the columns of the fields
/// before it.
fn column(
    field: &Field,
    attributes: &Attributes,
    before: &[Column],
    errors: &mut Errors,
) -> Option<Column> {
    let ident = field.ident.as_ref()?;
    let name = column_name(ident, attributes, before, errors);
    let content = content(field, attributes, errors);
    let role = role(field, attributes, before, errors);
    let column = Column {
        field: ident.clone(),
        name: name?,
        content: content?,
        role: role?,
        is_indexed: attributes.key(keys::INDEX).is_some(),
    };
    Some(column)
}

fn column_name(
    ident: &Ident,
    attributes: &Attributes,
    before: &[Column],
    errors: &mut Errors,
) -> Option<String> {
    let rename = attributes.values.rename.as_ref();
    let name = match rename {
        Some(written) => written.value(),
        None => ident.unraw().to_string(),
    };
    let mistake = mistake_in_column(&name).or_else(|| {
        let same = before.iter().find(|column| column.name == name)?;
        let other = other_column(&name, before);
        Some(format!(
            "`{}` has the column `{name}` already: give this field another, as in `#[read_model(rename = \"{other}\")]`",
            same.field
        ))
    });
    let Some(mistake) = mistake else {
        return Some(name);
    };
    match rename {
        Some(written) => errors.at(written, mistake),
        None => errors.at(ident, mistake),
    }
    None
}

/// A name for a column that none before it has, and that is not refused.
fn other_column(name: &str, before: &[Column]) -> String {
    let is_free = |other: &String| {
        mistake_in_column(other).is_none() && before.iter().all(|column| column.name != *other)
    };
    let numbered = (2..=before.len() + 2).map(|number| format!("{name}_{number}"));
    let mut all = numbered.chain(["other_name".to_owned()]);
    all.find(is_free).unwrap_or_else(|| "…".to_owned())
}

fn content(field: &Field, attributes: &Attributes, errors: &mut Errors) -> Option<Content> {
    let fits = refuse_references(&field.ty, errors)
        & refuse_arrays(&field.ty, errors)
        & refuse_nested_options(&field.ty, errors);
    let Some(written) = &attributes.values.sql_type else {
        return (fits && attributes.key(keys::SQL_TYPE).is_none())
            .then(|| Content::Native(field.ty.clone()));
    };
    let sql_type = written.value();
    if let Some(mistake) = mistake_in_type(&sql_type) {
        errors.at(written, mistake);
        return None;
    }
    if !fits {
        return None;
    }
    Some(match option_of(&field.ty) {
        Some(ty) => Content::ConvertedOption(ty.clone(), sql_type),
        None => Content::Converted(field.ty.clone(), sql_type),
    })
}

fn refuse_references(ty: &Type, errors: &mut Errors) -> bool {
    let Some(owned) = owned(ty) else {
        return true;
    };
    errors.at(
        ty,
        format!("a row owns what is read from its table: write `{owned}`"),
    );
    false
}

/// Postgres would flatten arrays when many rows are written at once.
fn refuse_arrays(ty: &Type, errors: &mut Errors) -> bool {
    let ty = option_of(ty).unwrap_or(ty);
    let element = match unwrapped(ty) {
        Type::Array(array) => &*array.elem,
        Type::Slice(slice) => &*slice.elem,
        path if last_name(path).as_deref() == Some("Vec") => {
            match type_arguments(path).into_iter().next() {
                Some(element) if last_name(element).as_deref() != Some("u8") => element,
                _ => return true,
            }
        }
        _ => return true,
    };
    let advice = match text_of(element).as_str() {
        "u8" => "write `Vec<u8>`".to_owned(),
        element => {
            format!("write `Json<Vec<{element}>>`, with `Json` from `consumer::sqlx::types`")
        }
    };
    errors.at(ty, format!("a column cannot be an array: {advice}"));
    false
}

fn refuse_nested_options(ty: &Type, errors: &mut Errors) -> bool {
    let Some(inner) = option_of(ty).filter(|inner| option_of(inner).is_some()) else {
        return true;
    };
    let inner = text_of(inner);
    errors.at(ty, format!("a column has only one NULL: write `{inner}`"));
    false
}

fn role(
    field: &Field,
    attributes: &Attributes,
    before: &[Column],
    errors: &mut Errors,
) -> Option<Role> {
    match (attributes.key(keys::KEY), attributes.key(keys::POSITION)) {
        (None, None) => Some(Role::Plain),
        (Some(key), None) => key_role(key, field, attributes, before, errors),
        (None, Some(position)) => position_role(position, attributes, before, errors),
        (Some(_), Some(position)) => {
            errors.at(
                position,
                "the position of the last event cannot be the key of a row: put `position` on a field of its own",
            );
            None
        }
    }
}

fn key_role(
    key: &Ident,
    field: &Field,
    attributes: &Attributes,
    before: &[Column],
    errors: &mut Errors,
) -> Option<Role> {
    let mut fits = true;
    if let Some(ty) = option_of(&field.ty) {
        fits = false;
        let ty = text_of(ty);
        errors.at(
            &field.ty,
            format!("a key cannot be optional, since NULL identifies no row: write `{ty}`"),
        );
    }
    if let Some(sql_type) = attributes.key(keys::SQL_TYPE) {
        fits = false;
        errors.at(
            sql_type,
            "a key cannot have a `sql_type`, since its text need not be unique: remove it, and use a `String`, `Uuid`, `i16`, `i32`, `i64` or `NaiveDate`",
        );
    }
    let keys = before.iter().filter(|column| column.role == Role::Key);
    let keys_before = keys.count();
    if let Some(index) = attributes.key(keys::INDEX) {
        fits = false;
        errors.at(index, "the key has an index already: remove `index`");
    }
    if keys_before == MAX_KEYS {
        fits = false;
        errors.at(
            key,
            format!("a key has at most {MAX_KEYS} fields: remove `key` from one of them"),
        );
    }
    fits.then_some(Role::Key)
}

fn position_role(
    position: &Ident,
    attributes: &Attributes,
    before: &[Column],
    errors: &mut Errors,
) -> Option<Role> {
    let mut fits = true;
    if let Some(first) = before.iter().find(|column| column.role == Role::Position) {
        fits = false;
        errors.at(
            position,
            format!(
                "`{}` is the position already: remove `position` from one of the two",
                first.field
            ),
        );
    }
    if let Some(sql_type) = attributes.key(keys::SQL_TYPE) {
        fits = false;
        errors.at(sql_type, "a position is an `i64`: remove `sql_type`");
    }
    if let Some(index) = attributes.key(keys::INDEX) {
        fits = false;
        errors.at(
            index,
            "a position has no index, which every change of a row would move: remove `index`",
        );
    }
    fits.then_some(Role::Position)
}
