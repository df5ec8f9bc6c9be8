//! From a [`Model`] to code, without any mistake left to report.
//!
//! Everything generated is inside one `const _`, which hides its names from the user's code, and has
//! hygienic spans, which hide the user's names from it. The user's types keep their own spans, so
//! that the compiler reports mistakes in them there.

mod checks;
mod documentation;
mod fold;
mod guards;
mod handlers;
mod rows;
mod variants;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Path, Type};

use crate::args::Aggregate;
use crate::item::Item;
use crate::model::{Body, Choice, Construction, Database, Events, Formerly, Model, OnError};
use crate::span::{at, own, quote_at};
use crate::types::last_name;

/// The item without helper attributes, and the implementations.
pub(crate) fn expand(model: &Model, item: &Item) -> TokenStream {
    let declarations = model
        .databases
        .iter()
        .map(|choice| declaration(model, choice));
    let guards = guards::guards(model);
    quote_spanned! {Span::mixed_site()=>
        #item
        #(#declarations)*
        #guards
    }
}

/// The code for one database, under the `cfg` that chooses it.
fn declaration(model: &Model, choice: &Choice) -> TokenStream {
    let condition = guards::condition(model, choice);
    let krate = &model.krate;
    let database = &choice.database;
    let alias = database_alias(krate, database);
    let fold = match (&model.body, model.read_model()) {
        (Body::Handlers(handlers), Some(row)) => fold::fold_impl(model, handlers, row),
        _ => TokenStream::new(),
    };
    let consumer = consumer_impl(model, database);
    let scoped = scoped_impl(model, database);
    let construct = construct_impl(model);
    let entry = entry(model, database);
    let checks = checks::checks(model);
    let variants = match &model.body {
        Body::Handlers(handlers) => variants::constants(krate, handlers),
        Body::ByHand(_) => TokenStream::new(),
    };
    let documentation = documentation::documentation(model, database);
    quote_spanned! {Span::mixed_site()=>
        #condition
        #[cfg(doc)]
        const _: () = { #documentation };
        #condition
        #[cfg(not(doc))]
        #[allow(deprecated, unused_qualifications)]
        const _: () = {
            #alias
            #variants
            #construct
            #fold
            #consumer
            #scoped
            #checks
            #entry
        };
    }
}

/// `type __Database = Sqlite;`, or nothing if the consumer runs on every database.
fn database_alias(krate: &Path, database: &Database) -> TokenStream {
    match database {
        Database::Any => TokenStream::new(),
        Database::Named(database) => {
            quote_spanned! {Span::mixed_site()=> type __Database = #database; }
        }
        Database::OfConnection(connection) => quote_at! {krate, at(connection) =>
            type __Database = <#connection as #krate::__private::Transaction>::Database;
        },
    }
}

/// The name of the database in generated code. An error about a hand-written `Handler` may show the
/// parameter, which is therefore called `DB`, as in the documentation.
fn database_name(model: &Model, database: &Database) -> TokenStream {
    let shows = matches!((&model.body, database), (Body::ByHand(_), Database::Any));
    if shows && model.self_type.to_token_stream().to_string() != "DB" {
        quote_spanned! {Span::mixed_site()=> DB }
    } else {
        quote_spanned! {Span::mixed_site()=> __Database }
    }
}

/// `where Users: Shareable, Connection: Transaction`, at the user's own types: the compiler reports what
/// is wrong with them there, and not at every handler again.
fn assumptions(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    if matches!(model.body, Body::ByHand(_)) {
        return TokenStream::new();
    }
    let is_shareable = quote_at! {krate, own(self_type) =>
        where #self_type: #krate::__private::Shareable
    };
    let is_connection = match database {
        Database::OfConnection(connection) if !is_of_sqlx(connection) => {
            quote_at! {krate, own(connection) =>
                , #connection: #krate::__private::Transaction
            }
        }
        _ => TokenStream::new(),
    };
    let are_rows = model.read_model().map(|_| {
        let are_rows = rows::assumptions(krate);
        quote_spanned! {Span::mixed_site()=> , #are_rows }
    });
    quote_spanned! {Span::mixed_site()=> #is_shareable #is_connection #are_rows }
}

/// Whether the type has the name of one of sqlx's connections. They need no assumption, and without
/// one the compiler caches more.
fn is_of_sqlx(connection: &Type) -> bool {
    const NAMES: &[&str] = &[
        "PgConnection",
        "SqliteConnection",
        "AnyConnection",
        "MySqlConnection",
    ];
    last_name(connection).is_some_and(|name| NAMES.contains(&name.as_str()))
}

/// `<__Database: …>` for the implementations of a consumer of every database.
fn database_parameter(model: &Model, database: &Database, name: &TokenStream) -> TokenStream {
    let krate = &model.krate;
    match (database, model.read_model()) {
        (Database::Any, None) => {
            quote_spanned! {Span::mixed_site()=> <#name: #krate::sqlx::Database> }
        }
        (Database::Any, Some(_)) => {
            quote_spanned! {Span::mixed_site()=> <#name: #krate::read_model::ReadModelDatabase> }
        }
        _ => TokenStream::new(),
    }
}

fn consumer_impl(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let name = &model.name;
    let database_name = database_name(model, database);
    let parameter = database_parameter(model, database, &database_name);
    let scope = scope_method(model);
    let settings = settings_method(model);
    let formerly = formerly_method(model);
    let knows = knows_method(model);
    let takes = takes_method(model);
    let assumptions = assumptions(model, database);
    let methods = match &model.body {
        Body::ByHand(_) => forwarding_methods(model, database),
        Body::Handlers(handlers) => handlers::methods(krate, handlers, database),
    };
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        #[allow(trivial_bounds)]
        impl #parameter #krate::Consumer<#database_name> for #self_type #assumptions {
            fn name(&self) -> &::core::primitive::str {
                #name
            }
            #scope
            #settings
            #formerly
            #knows
            #takes
            #methods
        }
    }
}

/// The methods for a struct with a hand-written `Handler`.
fn forwarding_methods(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let uses_transaction = !matches!(database, Database::Any);
    let name = database_name(model, database);
    let connection = connection(krate, &name);
    // One span for all the calls, so that a missing `Handler` is reported once.
    let call = |method: TokenStream| {
        quote_at! {krate, at(&model.self_type) => #krate::Handler::<#name>::#method }
    };
    let handle = call(quote_spanned! {at(&model.self_type)=> handle(self, __cx, __tx, __event) });
    let handle_batch =
        call(quote_spanned! {at(&model.self_type)=> handle_batch(self, __cx, __tx, __events) });
    let can_reset = call(quote_spanned! {at(&model.self_type)=> can_reset(self) });
    let reset = call(quote_spanned! {at(&model.self_type)=> reset(self, __cx, __tx) });
    let pass_over = handlers::pass_over(krate, model.ignored());
    let handle_batch = if pass_over.is_empty() {
        quote_spanned! {Span::mixed_site()=> #handle_batch.await }
    } else {
        between_ignored(krate, &handle_batch)
    };
    quote_spanned! {Span::mixed_site()=>
        async fn handle(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __event: &#krate::PersistedEvent,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            #pass_over
            #handle.await
        }
        async fn handle_batch(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __events: &[#krate::PersistedEvent],
        ) -> ::core::result::Result<::core::primitive::usize, #krate::BatchError> {
            #handle_batch
        }
        fn uses_transaction(&self) -> ::core::primitive::bool {
            #uses_transaction
        }
        fn can_reset(&self) -> ::core::primitive::bool {
            #can_reset
        }
        async fn reset(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            #reset.await
        }
    }
}

/// Calls a hand-written `handle_batch`, which counts the events that it is given, with those between two that
/// are passed over.
fn between_ignored(krate: &Path, handle_batch: &TokenStream) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        let __batch = __events;
        let mut __handled: ::core::primitive::usize = 0;
        while __handled < __batch.len() {
            if __handled > 0 && __cx.should_stop(__handled) {
                break;
            }
            let __events = #krate::__private::up_to_ignored(__batch, __handled, __KNOWLEDGE.ignored);
            if __events.is_empty() {
                __handled += 1;
                continue;
            }
            let __result = #handle_batch.await;
            let __done = #krate::__private::part(__handled, __events.len(), __result)?;
            __handled += __done;
            if __done < __events.len() {
                break;
            }
        }
        ::core::result::Result::Ok(__handled)
    }
}

/// The type of `tx` in the trait's methods.
fn connection(krate: &Path, database: &TokenStream) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        <#database as #krate::sqlx::Database>::Connection
    }
}

fn scoped_impl(model: &Model, database: &Database) -> TokenStream {
    let Some(scope) = &model.scope else {
        return TokenStream::new();
    };
    let krate = &model.krate;
    let self_type = &model.self_type;
    let name = database_name(model, database);
    let parameter = database_parameter(model, database, &name);
    let assumptions = assumptions(model, database);
    let aggregate_types = scope
        .iter()
        .map(|aggregate| aggregate_type(krate, aggregate));
    quote_spanned! {Span::mixed_site()=>
        const __SCOPE: &[&::core::primitive::str] = &[#(#aggregate_types),*];
        #[automatically_derived]
        #[allow(trivial_bounds)]
        impl #parameter #krate::ScopedConsumer<#name> for #self_type #assumptions {
            fn aggregate_types(&self) -> &[&::core::primitive::str] {
                __SCOPE
            }
        }
    }
}

fn aggregate_type(krate: &Path, aggregate: &Aggregate) -> TokenStream {
    match aggregate {
        Aggregate::Name(name) => name.to_token_stream(),
        Aggregate::Type(path) => quote_at! {krate, at(path) =>
            #krate::__private::aggregate_type::<#path>()
        },
    }
}

/// What is known of the consumer where only `Consumer` is.
fn scope_method(model: &Model) -> TokenStream {
    if model.scope.is_none() {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=>
        fn scope(&self) -> &[&::core::primitive::str] {
            __SCOPE
        }
    }
}

fn settings_method(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let settings = settings(model);
    if settings.is_empty() {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=>
        fn settings(&self) -> #krate::Settings {
            #krate::Settings::DEFAULT #settings
        }
    }
}

/// Which events the code knows. Without types it has no opinion.
fn knows_method(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let has_types = match &model.body {
        Body::ByHand(_) => false,
        Body::Handlers(handlers) => handlers
            .events
            .iter()
            .any(|handler| matches!(handler.events, Events::Typed(_) | Events::Variant(..))),
    };
    let mut scope = model.scope.iter().flatten();
    if !has_types && !scope.any(|aggregate| matches!(aggregate, Aggregate::Type(_))) {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=>
        fn knows(
            &self,
            __format: #krate::EventFormat<'_>,
        ) -> ::core::primitive::bool {
            __KNOWLEDGE.has(__format)
        }
    }
}

/// Which events a handler takes. Where one takes all, it has no opinion.
fn takes_method(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let takes_every_type = match &model.body {
        Body::ByHand(_) => true,
        Body::Handlers(handlers) => {
            handlers.of_every_event().next().is_some() || handlers.take_the_rest()
        }
    };
    if takes_every_type && model.ignored().is_empty() {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=>
        fn takes(
            &self,
            __format: #krate::EventFormat<'_>,
        ) -> ::core::primitive::bool {
            __KNOWLEDGE.takes(__format)
        }
    }
}

fn formerly_method(model: &Model) -> TokenStream {
    let krate = &model.krate;
    if matches!(model.formerly, Formerly::Unstated) {
        return TokenStream::new();
    }
    let formerly = formerly(model);
    quote_spanned! {Span::mixed_site()=>
        fn formerly(&self) -> #krate::Formerly {
            #formerly
        }
    }
}

fn formerly(model: &Model) -> TokenStream {
    let krate = &model.krate;
    match &model.formerly {
        Formerly::Unstated => quote_spanned! {Span::mixed_site()=> #krate::Formerly::Unstated },
        Formerly::None => quote_spanned! {Span::mixed_site()=> #krate::Formerly::None },
        Formerly::Name(name) => quote_spanned! {Span::mixed_site()=>
            #krate::Formerly::Name(#krate::__private::Cow::Borrowed(#name))
        },
    }
}

/// `.batch_size(100)` and so on, for settings that differ from the defaults.
fn settings(model: &Model) -> TokenStream {
    let Model {
        krate, settings, ..
    } = model;
    let span = Span::mixed_site();
    let time = |milliseconds: u64| {
        quote_spanned! {span=> ::core::time::Duration::from_millis(#milliseconds) }
    };
    let mut calls = TokenStream::new();
    if settings.start_from_now {
        calls.extend(quote_spanned! {span=> .start_from(#krate::StartFrom::Now) });
    }
    if let Some(policy) = &settings.on_error {
        let policy = match policy {
            OnError::Stop => quote_spanned! {span=> Stop },
            OnError::Park => quote_spanned! {span=> Park },
            OnError::Skip => quote_spanned! {span=> Skip },
        };
        calls.extend(quote_spanned! {span=> .on_error(#krate::OnError::#policy) });
    }
    if let Some(retries) = settings.retries {
        calls.extend(quote_spanned! {span=> .retries(#retries) });
    }
    if let Some((min, max)) = settings.backoff {
        let (min, max) = (time(min), time(max));
        calls.extend(quote_spanned! {span=> .backoff(#min, #max) });
    }
    if let Some(size) = settings.batch_size {
        calls.extend(quote_spanned! {span=> .batch_size(#size) });
    }
    if let Some(limit) = settings.batch_time.map(time) {
        calls.extend(quote_spanned! {span=> .batch_time(#limit) });
    }
    if let Some(limit) = settings.handler_timeout.map(time) {
        calls.extend(quote_spanned! {span=> .handler_timeout(#limit) });
    }
    if let Some(segments) = settings.segments {
        calls.extend(quote_spanned! {span=> .segments(#segments) });
    }
    calls
}

fn construct_impl(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let (dependencies, make) = match &model.construction {
        Construction::Init(function) => (
            quote_spanned! {Span::mixed_site()=> __dependencies },
            init(krate, function),
        ),
        Construction::UnitOrDefault(path) => (
            quote_spanned! {Span::mixed_site()=> _ },
            unit_or_default(krate, path),
        ),
        Construction::Default => (
            quote_spanned! {Span::mixed_site()=> _ },
            quote_at! {krate, at(self_type) =>
                ::core::result::Result::Ok(#krate::__private::default_instance::<#self_type>())
            },
        ),
    };
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl #krate::__private::OneConsumerBlockForEachType for #self_type {
            fn construct(
                #dependencies: &#krate::Dependencies,
            ) -> ::core::result::Result<Self, #krate::HandlerError> {
                #make
            }
        }
    }
}

/// Calls the function. Mistakes in it are reported at its path in the attribute.
fn init(krate: &Path, function: &Path) -> TokenStream {
    quote_at! {krate, at(function) =>
        #[allow(unused_imports)]
        use #krate::__private::NoInit as _;
        #krate::__private::InitWith(#function).make::<Self>(__dependencies)
    }
}

/// The import by name brings in the type, and the value too if the type is a unit struct. Otherwise
/// the value is that of the glob import, which an import by name would shadow.
fn unit_or_default(krate: &Path, path: &Path) -> TokenStream {
    let span = at(path);
    quote_at! {krate, span =>
        #[allow(unused_imports)]
        use #krate::__private::no_value::*;
        #[allow(unused_imports)]
        use #path as __CONSUMER;
        #[allow(unused_imports)]
        use #krate::__private::DefaultInstance as _;
        ::core::result::Result::Ok(
            #krate::__private::Instance::<_, #path>::of(__CONSUMER).make()
        )
    }
}

fn entry(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let name = &model.name;
    let version = model.version;
    let self_type = &model.self_type;
    let type_name = self_type.to_token_stream().to_string();
    let group = match &model.group {
        Some(group) => quote_spanned! {Span::mixed_site()=>
            ::core::option::Option::Some(#group)
        },
        None => quote_spanned! {Span::mixed_site()=> ::core::option::Option::None },
    };
    let scope = match &model.scope {
        Some(_) => quote_spanned! {Span::mixed_site()=> __SCOPE },
        None => quote_spanned! {Span::mixed_site()=> &[] },
    };
    let settings = settings(model);
    let formerly = formerly(model);
    let read_model = match model.read_model() {
        Some(_) => quote_spanned! {Span::mixed_site()=> __TABLE },
        None => quote_spanned! {Span::mixed_site()=> ::core::option::Option::None },
    };
    let factories = factories(model, database);
    quote_spanned! {Span::mixed_site()=>
        #krate::__submit! {
            #krate::__private::Entry {
                name: #name,
                type_name: #type_name,
                version: #version,
                group: #group,
                formerly: #formerly,
                scope: #scope,
                knowledge: __KNOWLEDGE,
                settings: #krate::Settings::DEFAULT #settings,
                read_model: #read_model,
                site: #krate::Site {
                    package: ::core::env!("CARGO_PKG_NAME"),
                    module: ::core::module_path!(),
                    file: ::core::file!(),
                    line: ::core::line!(),
                    column: ::core::column!(),
                },
                factories: &[#factories],
            }
        }
    }
}

/// How to make the consumer. With a connection type that is none, or a consumer that cannot be shared,
/// there is no factory: the mistake is reported at the implementation.
fn factories(model: &Model, database: &Database) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let row = model
        .read_model()
        .map(|_| quote_spanned! {at(self_type)=> , __Fold });
    let connection = match database {
        Database::Any => {
            return quote_at! {krate, at(self_type) =>
                #krate::__sqlite_factory!(#self_type #row),
                #krate::__postgres_factory!(#self_type #row)
            };
        }
        Database::Named(_) => connection(krate, &quote_spanned! {at(self_type)=> __Database }),
        Database::OfConnection(connection) => connection.to_token_stream(),
    };
    quote_at! {krate, at(self_type) =>
        #krate::__factory!(#connection, #self_type #row)
    }
}
