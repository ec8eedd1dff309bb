//! `#[derive(CacheKey)]`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, Fields, parse_quote};

pub(crate) fn derive(mut input: DeriveInput) -> TokenStream {
    let (name, out) = (&input.ident, Ident::new("out", Span::mixed_site()));
    let write = match &input.data {
        Data::Struct(data) => {
            let (pattern, fields) = taken_apart(&data.fields);
            let write = match (&data.fields, fields.as_slice()) {
                (Fields::Unnamed(_), [field]) => field.written(&out),
                (_, fields) => fields.iter().map(|field| field.as_part(&out)).collect(),
            };
            quote! {
                let Self #pattern = self;
                #write
            }
        }
        // A reference to an enum without variants has no arm that fits.
        Data::Enum(data) if data.variants.is_empty() => quote!(match *self {}),
        Data::Enum(data) => {
            let arms = data.variants.iter().map(|variant| {
                let (name, (pattern, fields)) = (&variant.ident, taken_apart(&variant.fields));
                let text = name.unraw().to_string();
                let parts = fields.iter().map(|field| field.as_part(&out));
                quote! {
                    Self::#name #pattern => {
                        ::larder::key::KeyWriter::part(#out, #text);
                        #(#parts)*
                    }
                }
            });
            quote!(match self { #(#arms)* })
        }
        Data::Union(data) => {
            let message = "a union cannot be a key, as nothing says which of its fields has a value: write a \
                struct or an enum";
            return Error::new(data.union_token.span(), message).into_compile_error();
        }
    };
    for parameter in input.generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(::larder::key::CacheKey));
    }
    let (parameters, arguments, bounds) = input.generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #parameters ::larder::key::CacheKey for #name #arguments #bounds {
            fn write_key(&self, #out: &mut ::larder::key::KeyWriter) {
                #write
            }
        }
    }
}

/// A field, under the name that the pattern gives it.
struct Field<'a> {
    name: Ident,
    ty: &'a syn::Type,
}

impl Field<'_> {
    /// As the whole key.
    fn written(&self, out: &Ident) -> TokenStream {
        let Self { name, ty } = self;
        quote_spanned!(ty.span()=> <#ty as ::larder::key::CacheKey>::write_key(#name, #out);)
    }

    fn as_part(&self, out: &Ident) -> TokenStream {
        let Self { name, ty } = self;
        quote_spanned!(ty.span()=> ::larder::key::KeyWriter::part::<#ty>(#out, #name);)
    }
}

/// The pattern that takes these fields apart, and the fields.
fn taken_apart(fields: &Fields) -> (TokenStream, Vec<Field<'_>>) {
    // By number and with the same braces, whatever kind of fields they are.
    let named = fields.iter().zip(fields.members()).enumerate();
    let (members, fields): (Vec<_>, Vec<_>) = named
        .map(|(number, (field, member))| {
            let name = format_ident!("field{number}", span = Span::mixed_site());
            (
                quote!(#member: #name),
                Field {
                    name,
                    ty: &field.ty,
                },
            )
        })
        .unzip();
    (quote!({ #(#members),* }), fields)
}
