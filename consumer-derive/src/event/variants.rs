//! The variants of an enum, each of which a handler may take alone.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::{Ident, Path, Type};

/// The names of the variants, and what each holds: the type in it, or the enum if it has none.
pub(super) fn implementations(
    krate: &Path,
    ident: &Ident,
    variants: &[(&Ident, Option<&Type>)],
) -> TokenStream {
    let names = variants.iter().map(|(name, _)| name.unraw().to_string());
    let contents = (0_usize..)
        .zip(variants)
        .map(|(index, (name, ty))| content(krate, ident, index, name, *ty));
    // rustdoc shows nothing of it.
    quote_spanned! {Span::mixed_site()=>
        #[cfg(not(doc))]
        #[allow(
            deprecated,
            unreachable_patterns,
            unused_qualifications,
            clippy::unneeded_struct_pattern
        )]
        const _: () = {
            #[automatically_derived]
            impl #krate::__private::EventEnum for #ident {
                const VARIANTS: &'static [&'static ::core::primitive::str] = &[#(#names),*];
            }
            #(#contents)*
        };
    }
}

fn content(
    krate: &Path,
    ident: &Ident,
    index: usize,
    name: &Ident,
    ty: Option<&Type>,
) -> TokenStream {
    let content = ty.map_or_else(|| ident.to_token_stream(), ToTokens::to_token_stream);
    let pattern = match ty {
        Some(_) => quote_spanned! {Span::mixed_site()=> Self::#name(__content) },
        None => quote_spanned! {Span::mixed_site()=> __content @ Self::#name { .. } },
    };
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl #krate::__private::Variant<#index, #content> for #ident {
            fn into_content(self) -> ::core::option::Option<#content> {
                match self {
                    #pattern => ::core::option::Option::Some(__content),
                    _ => ::core::option::Option::None,
                }
            }
        }
    }
}
