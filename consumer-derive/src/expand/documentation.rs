//! What rustdoc shows of a consumer: the implementations as one would write them by hand. It compiles no
//! bodies.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::Type;

use super::database_parameter;
use crate::model::{Database, Model};
use crate::types::last_name;

pub(super) fn documentation(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let name = &model.name;
    let shown = Shown::of(model, database);
    let Shown {
        parameter,
        database,
        connection,
    } = &shown;
    let scoped = model.scope.as_ref().map(|_| {
        quote_spanned! {Span::mixed_site()=>
            impl #parameter #krate::ScopedConsumer<#database> for #self_type {
                fn aggregate_types(&self) -> &[&::core::primitive::str] {
                    ::core::unimplemented!()
                }
            }
        }
    });
    let fold = fold(model);
    quote_spanned! {Span::mixed_site()=>
        impl #parameter #krate::Consumer<#database> for #self_type {
            fn name(&self) -> &::core::primitive::str {
                #name
            }
            async fn handle(
                &self,
                cx: &#krate::Context,
                tx: &mut #connection,
                event: &#krate::PersistedEvent,
            ) -> ::core::result::Result<(), #krate::HandlerError> {
                ::core::unimplemented!()
            }
        }
        #scoped
        #fold
    }
}

fn fold(model: &Model) -> Option<TokenStream> {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let row = model.read_model()?;
    Some(quote_spanned! {Span::mixed_site()=>
        impl #krate::Fold for #self_type {
            type Row = #row;
            fn keys(
                &self,
                cx: &#krate::Context,
                event: &#krate::PersistedEvent,
                keys: &mut #krate::read_model::Keys<'_, <#row as #krate::ReadModel>::Key>,
            ) -> ::core::result::Result<(), #krate::HandlerError> {
                ::core::unimplemented!()
            }
            fn fold(
                &self,
                cx: &#krate::Context,
                event: &#krate::PersistedEvent,
                rows: &mut #krate::read_model::Rows<'_, #row>,
            ) -> ::core::result::Result<(), #krate::HandlerError> {
                ::core::unimplemented!()
            }
        }
    })
}

/// The types of the implementation.
struct Shown {
    /// `<DB: Database>`, or nothing.
    parameter: TokenStream,
    database: TokenStream,
    connection: TokenStream,
}

impl Shown {
    fn of(model: &Model, database: &Database) -> Self {
        let krate = &model.krate;
        let connection_of = |database: &TokenStream| {
            quote_spanned! {Span::mixed_site()=>
                <#database as #krate::sqlx::Database>::Connection
            }
        };
        match database {
            Database::Any => {
                let name = parameter_name(&model.self_type);
                Self {
                    parameter: database_parameter(model, database, &name),
                    connection: quote_spanned! {Span::mixed_site()=> #name::Connection },
                    database: name,
                }
            }
            Database::Named(database) => {
                let database = database.to_token_stream();
                Self {
                    parameter: TokenStream::new(),
                    connection: connection_of(&database),
                    database,
                }
            }
            Database::OfConnection(connection) => Self {
                parameter: TokenStream::new(),
                database: database_of(model, connection),
                connection: connection.to_token_stream(),
            },
        }
    }
}

/// `DB`, unless that is the consumer.
fn parameter_name(self_type: &Type) -> TokenStream {
    if last_name(self_type).as_deref() == Some("DB") {
        quote_spanned! {Span::mixed_site()=> Database }
    } else {
        quote_spanned! {Span::mixed_site()=> DB }
    }
}

/// The database of one of sqlx's connections by its name, and of another one by way of the connection.
fn database_of(model: &Model, connection: &Type) -> TokenStream {
    let krate = &model.krate;
    match last_name(connection).as_deref() {
        Some("SqliteConnection") => quote_spanned! {Span::mixed_site()=> #krate::sqlx::Sqlite },
        Some("PgConnection") => quote_spanned! {Span::mixed_site()=> #krate::sqlx::Postgres },
        _ => quote_spanned! {Span::mixed_site()=>
            <#connection as #krate::__private::Transaction>::Database
        },
    }
}
