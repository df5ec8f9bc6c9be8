//! The implementation of `Event`, and of `Aggregate` for an enum.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Path, Type};

use super::model::{Content, Earlier, Format, Model, Shape, Variant};
use super::variants;
use crate::span::{at, moved, own, quote_at};
use crate::types::{last_name, type_arguments};

pub(super) fn expand(model: &Model) -> TokenStream {
    match &model.shape {
        Shape::Unit(format) => expand_unit(model, format),
        Shape::Struct(format) => expand_struct(model, format),
        Shape::Enum(variants) => expand_enum(model, variants),
    }
}

fn expand_unit(model: &Model, format: &Format) -> TokenStream {
    let krate = &model.krate;
    let Format { name, version, .. } = format;
    implementation(
        model,
        &name.to_token_stream(),
        &name.to_token_stream(),
        &version.to_token_stream(),
        &quote_spanned! {Span::mixed_site()=>
            ::core::result::Result::Ok(#krate::__private::nothing())
        },
        &reads_nothing(krate, format),
        &decode_nothing(krate, format, &quote_spanned! {Span::mixed_site()=> Self }),
    )
}

/// Without fields, all versions up to the current one are the same. A later one may have fields.
fn decode_nothing(krate: &Path, format: &Format, this: &TokenStream) -> TokenStream {
    let version = format.version;
    quote_spanned! {Span::mixed_site()=>
        match __event.event_version {
            0i32..=#version => ::core::result::Result::Ok(#this),
            _ => ::core::result::Result::Err(
                #krate::__private::unknown_version(__event, #version)
            ),
        }
    }
}

fn expand_struct(model: &Model, format: &Format) -> TokenStream {
    let krate = &model.krate;
    let name = &format.name;
    let version = format.version;
    let this = quote_spanned! {at(&model.ident)=> Self };
    let decode = decode_versions(
        krate,
        format,
        &this,
        &quote_at! {krate, at(&model.ident) => #krate::__private::decode_json::<Self>(__event) },
    );
    implementation(
        model,
        &name.to_token_stream(),
        &name.to_token_stream(),
        &version.to_token_stream(),
        &quote_at! {krate, at(&model.ident) => #krate::__private::encode_json(self) },
        &reads_versions(krate, format),
        &decode,
    )
}

fn implementation(
    model: &Model,
    event_types: &TokenStream,
    event_type: &TokenStream,
    event_version: &TokenStream,
    encode: &TokenStream,
    reads: &TokenStream,
    decode: &TokenStream,
) -> TokenStream {
    let Model {
        krate,
        ident,
        aggregate,
        ..
    } = model;
    quote_spanned! {Span::mixed_site()=>
        #[allow(deprecated, unused_qualifications, clippy::redundant_closure)]
        const _: () = {
            #[automatically_derived]
            impl #krate::Event for #ident {
                const AGGREGATE_TYPE: &'static ::core::primitive::str = #aggregate;
                const EVENT_TYPES: &'static [&'static ::core::primitive::str] = &[#event_types];

                fn event_type(&self) -> &'static ::core::primitive::str {
                    #event_type
                }

                fn event_version(&self) -> ::core::primitive::i32 {
                    #event_version
                }

                fn encode(
                    &self,
                ) -> ::core::result::Result<#krate::__private::Bytes, #krate::__private::serde_json::Error> {
                    #encode
                }

                fn reads(
                    #[cfg(doc)] event_type: &::core::primitive::str,
                    #[cfg(not(doc))] __event_type: &::core::primitive::str,
                    #[cfg(doc)] version: ::core::primitive::i32,
                    #[cfg(not(doc))] __version: ::core::primitive::i32,
                ) -> ::core::primitive::bool {
                    let _ = (__event_type, __version);
                    #reads
                }

                // rustdoc shows the name, which may be that of a constant.
                fn decode(
                    #[cfg(doc)] event: &#krate::PersistedEvent,
                    #[cfg(not(doc))] __event: &#krate::PersistedEvent,
                ) -> ::core::result::Result<Self, #krate::DecodeError> {
                    #krate::__private::expect_event::<Self>(__event)?;
                    #decode
                }
            }
        };
    }
}

fn lowest(format: &Format) -> i32 {
    let earliest = format.earlier.first();
    earliest.map_or(format.version, |(number, _)| *number)
}

/// Whether a version is one of those that are decoded.
fn reads_versions(krate: &Path, format: &Format) -> TokenStream {
    reads_from(krate, lowest(format), format)
}

/// The same for an event without fields.
fn reads_nothing(krate: &Path, format: &Format) -> TokenStream {
    reads_from(krate, 1, format)
}

fn reads_from(krate: &Path, lowest: i32, format: &Format) -> TokenStream {
    let newest = format.version;
    quote_spanned! {Span::mixed_site()=>
        #krate::__private::is_version_in(__version, #lowest, #newest)
    }
}

/// Decodes the current version directly, and an earlier one by way of each later version.
fn decode_versions(
    krate: &Path,
    format: &Format,
    newest: &TokenStream,
    current: &TokenStream,
) -> TokenStream {
    let version = format.version;
    let lowest = lowest(format);
    // Writers without versions leave 0, which counts as the first version.
    let pattern = |number: i32| match number {
        1 if lowest == 1 => quote_spanned! {Span::mixed_site()=> 0i32 | 1i32 },
        _ => number.to_token_stream(),
    };
    let newest_pattern = pattern(version);
    let earlier = (0..).zip(&format.earlier).map(|(index, (number, first))| {
        let path = format.earlier.get(index..).unwrap_or_default();
        let older = read_as(krate, first);
        let steps = path.iter().zip(1..).map(|((_, from), next)| {
            let newer = match path.get(next) {
                Some((_, later)) => read_as(krate, later),
                None => newest.clone(),
            };
            step(krate, from, &newer)
        });
        let pattern = pattern(*number);
        quote_at! {krate, at(first) =>
            #pattern => #krate::__private::decode_json::<#older>(__event) #(#steps)*,
        }
    });
    quote_spanned! {Span::mixed_site()=>
        match __event.event_version {
            #newest_pattern => #current,
            #(#earlier)*
            _ => ::core::result::Result::Err(
                #krate::__private::unknown_version(__event, #version)
            ),
        }
    }
}

/// The type that the payload of an earlier version is read as.
fn read_as(krate: &Path, earlier: &Earlier) -> TokenStream {
    match earlier {
        Earlier::Type(ty) => ty.to_token_stream(),
        Earlier::Function(function) => {
            quote_at! {krate, at(function) => #krate::__private::serde_json::Value }
        }
    }
}

/// Converts an earlier version into the next.
fn step(krate: &Path, from: &Earlier, newer: &TokenStream) -> TokenStream {
    match from {
        Earlier::Type(older) => {
            let newer = moved(newer, own(older));
            quote_at! {krate, own(older) =>
                .map(|__older| <#newer as #krate::__private::Upcast<#older>>::upcast(__older))
            }
        }
        Earlier::Function(function) => {
            let newer = moved(newer, at(function));
            quote_at! {krate, at(function) =>
                .and_then(|__older| {
                    #krate::__private::upcast_with::<#newer, _>(__event, #function(__older))
                })
            }
        }
    }
}

fn expand_enum(model: &Model, variants: &[Variant]) -> TokenStream {
    let krate = &model.krate;
    let ident = &model.ident;
    let span = Span::mixed_site();
    let names: Vec<TokenStream> = variants.iter().map(|one| name(krate, one)).collect();
    let patterns: Vec<TokenStream> = variants.iter().map(pattern).collect();
    let versions = variants.iter().map(|one| event_version(krate, one));
    let encodings = variants.iter().map(|one| encode(krate, one));
    let decodings = variants.iter().map(|one| decode(krate, one));
    let event_type = quote_spanned! {span=> match self { #(#patterns => #names,)* } };
    let event_version = quote_spanned! {span=> match self { #(#patterns => #versions,)* } };
    let encode = quote_spanned! {span=> match self { #(#patterns => #encodings,)* } };
    let decode = quote_spanned! {span=>
        let __kind: &::core::primitive::str = &__event.event_type;
        match __kind {
            #(_ if __kind == #names => #decodings,)*
            _ => ::core::result::Result::Err(#krate::__private::unknown_type(
                __event,
                <Self as #krate::Event>::EVENT_TYPES,
            )),
        }
    };
    let event_types = quote_spanned! {span=> #(#names),* };
    let readings = variants.iter().map(|one| reads(krate, one));
    let reads = quote_spanned! {span=>
        match __event_type {
            #(_ if __event_type == #names => #readings,)*
            _ => false,
        }
    };
    let event = implementation(
        model,
        &event_types,
        &event_type,
        &event_version,
        &encode,
        &reads,
        &decode,
    );
    let checks = checks(model, variants);
    let contents: Vec<_> = variants
        .iter()
        .map(|one| (&one.ident, one.content.ty()))
        .collect();
    let variants = variants::implementations(krate, ident, &contents);
    quote_spanned! {span=>
        #event
        #[automatically_derived]
        #[allow(deprecated)]
        impl #krate::Aggregate for #ident {}
        #variants
        #checks
    }
}

/// The event type of a variant: its own, or that of the event in it.
fn name(krate: &Path, variant: &Variant) -> TokenStream {
    match &variant.content {
        Content::Nothing(format) | Content::Fields(format) | Content::Described(_, format) => {
            format.name.to_token_stream()
        }
        Content::Type(ty, format) => {
            let own = &format.name;
            let inner = inner(krate, ty);
            quote_at! {krate, at(ty) =>
                {
                    #[allow(unused_imports)]
                    use #krate::__private::PlainContent as _;
                    #krate::__private::event_type_of(#inner::EVENT, #own)
                }
            }
        }
    }
}

/// The type in a variant. Inherent items, which exist for events, take precedence over those of the
/// trait for plain content.
fn inner(krate: &Path, ty: &Type) -> TokenStream {
    quote_at! {krate, at(ty) => #krate::__private::VariantType::<#ty> }
}

fn pattern(variant: &Variant) -> TokenStream {
    let ident = &variant.ident;
    match variant.content {
        Content::Nothing(_) => quote_spanned! {Span::mixed_site()=> Self::#ident },
        Content::Fields(_) => quote_spanned! {Span::mixed_site()=> Self::#ident { .. } },
        Content::Type(..) | Content::Described(..) => {
            quote_spanned! {Span::mixed_site()=> Self::#ident(__content) }
        }
    }
}

fn event_version(krate: &Path, variant: &Variant) -> TokenStream {
    match &variant.content {
        Content::Nothing(format) | Content::Fields(format) | Content::Described(_, format) => {
            format.version.to_token_stream()
        }
        Content::Type(ty, _) => {
            let inner = inner(krate, ty);
            quote_at! {krate, at(ty) =>
                {
                    #[allow(unused_imports)]
                    use #krate::__private::PlainContent as _;
                    #inner::event_version(__content)
                }
            }
        }
    }
}

fn encode(krate: &Path, variant: &Variant) -> TokenStream {
    match &variant.content {
        Content::Nothing(_) => quote_spanned! {Span::mixed_site()=>
            ::core::result::Result::Ok(#krate::__private::nothing())
        },
        Content::Fields(_) => quote_at! {krate, at(&variant.ident) =>
            #krate::__private::encode_variant(self)
        },
        Content::Described(ty, _) => quote_at! {krate, at(ty) =>
            #krate::__private::encode_json::<#ty>(__content)
        },
        Content::Type(ty, _) => {
            let inner = inner(krate, ty);
            quote_at! {krate, at(ty) =>
                {
                    #[allow(unused_imports)]
                    use #krate::__private::PlainContent as _;
                    #inner::encode(__content)
                }
            }
        }
    }
}

/// Whether a version of a variant's event is one that it can decode.
fn reads(krate: &Path, variant: &Variant) -> TokenStream {
    match &variant.content {
        Content::Nothing(format) => reads_nothing(krate, format),
        Content::Fields(format) | Content::Described(_, format) => reads_versions(krate, format),
        Content::Type(ty, _) => {
            let inner = inner(krate, ty);
            quote_at! {krate, at(ty) =>
                {
                    #[allow(unused_imports)]
                    use #krate::__private::PlainContent as _;
                    #inner::reads(__event_type, __version)
                }
            }
        }
    }
}

fn decode(krate: &Path, variant: &Variant) -> TokenStream {
    let ident = &variant.ident;
    let index = variant.index;
    let this = quote_spanned! {Span::mixed_site()=> Self };
    match &variant.content {
        Content::Nothing(format) => {
            let nothing = quote_spanned! {Span::mixed_site()=> Self::#ident };
            decode_nothing(krate, format, &nothing)
        }
        Content::Fields(format) => {
            let current = quote_at! {krate, at(ident) =>
                #krate::__private::decode_variant::<Self>(__event, #index)
            };
            decode_versions(krate, format, &this, &current)
        }
        Content::Described(ty, format) => {
            let (content, boxed) = unboxed(ty);
            let current = quote_at! {krate, at(ty) =>
                #krate::__private::decode_json::<#content>(__event)
            };
            let decoded = decode_versions(krate, format, &content.to_token_stream(), &current);
            quote_spanned! {Span::mixed_site()=> (#decoded) #boxed .map(Self::#ident) }
        }
        Content::Type(ty, _) => {
            let inner = inner(krate, ty);
            quote_at! {krate, at(ty) =>
                {
                    #[allow(unused_imports)]
                    use #krate::__private::PlainContent as _;
                    #inner::decode(__event).map(Self::#ident)
                }
            }
        }
    }
}

/// The content of a box, which earlier versions are converted into, and how it is boxed again.
fn unboxed(ty: &Type) -> (&Type, Option<TokenStream>) {
    let inner = type_arguments(ty).into_iter().next();
    match inner.filter(|_| last_name(ty).as_deref() == Some("Box")) {
        Some(inner) => (
            inner,
            Some(quote_spanned! {at(ty)=> .map(::std::boxed::Box::new) }),
        ),
        None => (ty, None),
    }
}

/// Checks that need the compiler: what the type in a variant is, and, beside such a variant, that no
/// two event types are equal.
fn checks(model: &Model, variants: &[Variant]) -> TokenStream {
    let holds_a_type =
        |one: &Variant| matches!(one.content, Content::Type(..) | Content::Described(..));
    if !variants.iter().any(holds_a_type) {
        return TokenStream::new();
    }
    let events = variants.iter().map(|one| is_an_event_of(model, one));
    let names = variants.iter().skip(1).map(|one| is_named_once(model, one));
    events.chain(names).collect()
}

fn is_an_event_of(model: &Model, variant: &Variant) -> TokenStream {
    let Model {
        krate, aggregate, ..
    } = model;
    let (Content::Type(ty, _) | Content::Described(ty, _)) = &variant.content else {
        return TokenStream::new();
    };
    let name = variant.ident.to_string();
    let is_described = matches!(variant.content, Content::Described(..));
    let inner = inner(krate, ty);
    quote_at! {krate, own(ty) =>
        #[allow(deprecated)]
        const _: () = {
            #[allow(unused_imports)]
            use #krate::__private::PlainContent as _;
            #krate::__private::check::is_an_event_of(
                #name,
                #aggregate,
                #inner::EVENT,
                #is_described,
            )
        };
    }
}

fn is_named_once(model: &Model, variant: &Variant) -> TokenStream {
    let Model { krate, ident, .. } = model;
    let span = match &variant.content {
        Content::Type(ty, _) | Content::Described(ty, _) => own(ty),
        Content::Nothing(_) | Content::Fields(_) => own(&variant.ident),
    };
    let index = variant.index;
    quote_at! {krate, span =>
        #[allow(deprecated)]
        const _: () = #krate::__private::check::is_named_once(
            <#ident as #krate::Event>::EVENT_TYPES,
            #index,
        );
    }
}
