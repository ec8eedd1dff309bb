//! The options in the brackets of `#[cached(…)]`.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, ExprLit, Lit, LitBool, LitStr, Result, Token, bracketed};

const NAMES: &str = "cache, namespace, key, ttl, soft_ttl, none_ttl, tags and shares_keys";
const TAGS: &str = "tags = [\"prices\", (\"tenant\", tenant)]";

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) cache: Option<Code>,
    pub(crate) namespace: Option<LitStr>,
    pub(crate) key: Option<Code>,
    pub(crate) ttl: Option<LitStr>,
    pub(crate) soft_ttl: Option<LitStr>,
    pub(crate) none_ttl: Option<LitStr>,
    pub(crate) tags: Option<Vec<Expr>>,
    pub(crate) shares_keys: Option<LitBool>,
}

/// An expression, as the text of a literal. Its tokens have the literal's place in the code.
pub(crate) struct Code {
    pub(crate) expression: Expr,
    pub(crate) literal: LitStr,
}

impl Code {
    pub(crate) fn span(&self) -> Span {
        self.literal.span()
    }

    fn parse(input: ParseStream<'_>, example: &str) -> Result<Self> {
        let literal = text(input, example)?;
        let expression = literal.parse().map_err(|error| {
            let message = format!("this is not an expression: {error}");
            Error::new(literal.span(), message)
        })?;
        Ok(Self {
            expression,
            literal,
        })
    }
}

fn text(input: ParseStream<'_>, example: &str) -> Result<LitStr> {
    let message = format!("write the value in quotes, as in `{example}`");
    input
        .parse()
        .map_err(|error: Error| Error::new(error.span(), message))
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let name: Ident = input.parse().map_err(|error| {
                let message = "write each option by its name, as in `ttl = \"5m\"`";
                Error::new(error.span(), message)
            })?;
            match name.to_string().as_str() {
                "cache" => {
                    let example = "cache = \"self.products\"";
                    set(&mut options.cache, &name, input, example, Code::parse)?;
                }
                "namespace" => {
                    let example = "namespace = \"shop:product\"";
                    set(&mut options.namespace, &name, input, example, namespace)?;
                }
                "key" => {
                    let example = "key = \"(tenant, id)\"";
                    set(&mut options.key, &name, input, example, Code::parse)?;
                }
                "ttl" => set(&mut options.ttl, &name, input, "ttl = \"5m\"", text)?,
                "soft_ttl" => set(
                    &mut options.soft_ttl,
                    &name,
                    input,
                    "soft_ttl = \"1m\"",
                    text,
                )?,
                "none_ttl" => set(
                    &mut options.none_ttl,
                    &name,
                    input,
                    "none_ttl = \"30s\"",
                    text,
                )?,
                "tags" => set(&mut options.tags, &name, input, TAGS, |input, _| {
                    tags(input)
                })?,
                "shares_keys" => {
                    let example = "shares_keys = true";
                    set(
                        &mut options.shares_keys,
                        &name,
                        input,
                        example,
                        |input, _| input.parse(),
                    )?;
                }
                _ => {
                    let message = format!("there is no option `{name}`: there are {NAMES}");
                    return Err(Error::new(name.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

/// Reads what follows the name of an option: the sign and the value. `example` is for the errors.
fn set<T>(
    option: &mut Option<T>,
    name: &Ident,
    input: ParseStream<'_>,
    example: &str,
    parse: impl FnOnce(ParseStream<'_>, &str) -> Result<T>,
) -> Result<()> {
    if !input.peek(Token![=]) {
        let message = format!("write the option with its value, as in `{example}`");
        return Err(Error::new(name.span(), message));
    }
    input.parse::<Token![=]>()?;
    if option.replace(parse(input, example)?).is_some() {
        let message = format!("`{name}` is set already: remove one of the two");
        return Err(Error::new(name.span(), message));
    }
    Ok(())
}

fn namespace(input: ParseStream<'_>, example: &str) -> Result<LitStr> {
    let namespace = text(input, example)?;
    match namespace.value().split_once(':') {
        Some((service, name)) if !service.is_empty() && !name.is_empty() => Ok(namespace),
        _ => {
            let message =
                "write the service and a name of its own for this cache, as in \"shop:product\"";
            Err(Error::new(namespace.span(), message))
        }
    }
}

fn tags(input: ParseStream<'_>) -> Result<Vec<Expr>> {
    let list;
    if !input.peek(syn::token::Bracket) {
        return Err(input.error(format!("write the tags as a list, as in `{TAGS}`")));
    }
    bracketed!(list in input);
    let tags: Punctuated<Expr, Token![,]> = list.parse_terminated(Expr::parse, Token![,])?;
    for tag in &tags {
        if let Some(of_self) = uses_self(tag.to_token_stream()) {
            let message = "a tag is made of the arguments: take what it needs from `self` as an argument, or give the \
                cache `tags_of`";
            return Err(Error::new(of_self, message));
        }
        if let Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) = tag
            && text.value().contains('{')
        {
            // It would be another text than that of the tuple, for a tenant with a colon.
            let message = "a text is a tag as it is: write an expression, as in `(\"tenant\", tenant)`, which is the \
                tag that `invalidate_tag(&(\"tenant\", tenant))` names";
            return Err(Error::new(text.span(), message));
        }
    }
    Ok(tags.into_iter().collect())
}

/// Where code names `self`.
fn uses_self(code: TokenStream) -> Option<Span> {
    code.into_iter().find_map(|token| match token {
        TokenTree::Group(group) => uses_self(group.stream()),
        TokenTree::Ident(name) if name == "self" => Some(name.span()),
        _ => None,
    })
}

impl Options {
    /// Constants of `ttl` and `soft_ttl`.
    pub(crate) fn ttls(&self) -> TokenStream {
        let ttl = constant("TTL", "ttl", self.ttl.as_ref());
        let soft_ttl = constant("SOFT_TTL", "soft_ttl", self.soft_ttl.as_ref());
        let are_both_set = self.ttl.is_some().then_some(self.soft_ttl.as_ref());
        let order = are_both_set.flatten().map(|text| {
            let message =
                "`soft_ttl` must be shorter than `ttl`: a value turns stale before it expires";
            quote_spanned! {text.span()=>
                const _: () = ::core::assert!(SOFT_TTL.as_nanos() < TTL.as_nanos(), #message);
            }
        });
        quote!(#ttl #soft_ttl #order)
    }

    /// The constant of `none_ttl`.
    pub(crate) fn ttl_of_none(&self) -> TokenStream {
        constant("NONE_TTL", "none_ttl", self.none_ttl.as_ref())
    }
}

/// The constant of a TTL, if it is set. Its text is read as the settings' are, by the same function.
fn constant(name: &str, option: &str, text: Option<&LitStr>) -> TokenStream {
    let Some(text) = text else {
        return TokenStream::new();
    };
    let name = Ident::new(name, text.span());
    let form = format!(
        "`{option}` must be a duration with its unit, such as \"250ms\", \"30s\" or \"1h30m\""
    );
    let zero = format!("`{option}` must be longer than zero");
    quote_spanned! {text.span()=>
        const #name: ::core::time::Duration = match ::larder::generated::duration(#text) {
            ::core::option::Option::Some(::core::time::Duration::ZERO) => ::core::panic!(#zero),
            ::core::option::Option::Some(ttl) => ttl,
            ::core::option::Option::None => ::core::panic!(#form),
        };
    }
}
