//! The arguments of the function: which of them are in the key, and what the load copies of them.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, Expr, FnArg, LitStr, Pat, PatType, ReceiverKind, Result, Type, TypeReference,
    parse_quote,
};

use super::generated_name;
use super::options::{Code, Options};

/// A part of a key that differs from call to call.
const ARGUMENT: &str = "_";

const NO_MUT: &str = "the body of a `#[cached]` function runs only if no value is stored, so it must not change what \
    it is given: borrow with `&`";
const NO_BORROW: &str = "the load owns its arguments, and cannot copy what another type borrows: take an owned type, \
    such as `Option<String>`";
const NO_IMPL: &str = "`impl Trait` makes the function generic, and each type would need a cache of its own: \
    name the type";

/// The types of tuples that are keys have up to so many parts.
const MAX_PARTS: usize = 8;

pub(crate) struct Arguments {
    receiver: Option<Receiver>,
    all: Vec<Argument>,
}

struct Receiver {
    declared: syn::Receiver,
    copied: Copied,
}

/// The key that is looked up.
pub(crate) struct Key {
    pub(crate) borrowed: TokenStream,
    /// The type of owned keys, if the arguments say it.
    pub(crate) owned: Option<TokenStream>,
    /// Where the user has written it.
    pub(crate) span: Span,
}

pub(crate) struct Argument {
    name: Ident,
    ty: Type,
    copied: Copied,
    is_in_key: bool,
    is_in_cache: bool,
    is_in_tags: bool,
}

/// How the load has a copy of its own: of the value that a reference leads to, or of an owned value.
struct Copied {
    of: Type,
    is_borrowed: bool,
}

impl Copied {
    fn new(ty: &Type) -> Result<Self> {
        let (of, is_borrowed) = match ty {
            Type::Reference(reference) if !is_static(reference) => {
                if let Some(mutable) = &reference.mutability {
                    return Err(Error::new(mutable.span(), NO_MUT));
                }
                ((*reference.elem).clone(), true)
            }
            ty => (ty.clone(), false),
        };
        check_owned(of.to_token_stream(), NO_BORROW)?;
        Ok(Self { of, is_borrowed })
    }

    /// The type of the copy.
    fn ty(&self) -> TokenStream {
        let of = &self.of;
        if self.is_borrowed {
            quote_spanned!(of.span()=> <#of as ::std::borrow::ToOwned>::Owned)
        } else {
            quote!(#of)
        }
    }

    /// A reference to what is copied, of the argument or of the copy.
    fn borrowed(&self, name: &impl ToTokens) -> TokenStream {
        if self.is_borrowed {
            quote!(#name)
        } else {
            quote_spanned!(name.span()=> &#name)
        }
    }

    /// A statement that copies the argument.
    fn statement(&self, name: &impl ToTokens, copy: &Ident) -> TokenStream {
        let (of, borrowed) = (&self.of, self.borrowed(name));
        quote_spanned!(of.span()=> let #copy = <#of as ::std::borrow::ToOwned>::to_owned(#borrowed);)
    }

    /// The argument, made of its copy.
    fn made_of(&self, copy: &Ident) -> TokenStream {
        if self.is_borrowed {
            quote!(&#copy)
        } else {
            quote!(#copy)
        }
    }
}

impl Receiver {
    fn new(declared: &syn::Receiver) -> Result<Self> {
        let span = declared.self_token.span();
        let name = Ident::new("Self", span);
        let ty: Type = match &declared.kind {
            ReceiverKind::Reference(_, _, Some(mutable)) => {
                return Err(Error::new(mutable.span(), NO_MUT));
            }
            ReceiverKind::Reference(..) => parse_quote!(&#name),
            ReceiverKind::Typed(_, ty) => (**ty).clone(),
            _ => parse_quote!(#name),
        };
        let mut declared = declared.clone();
        declared.mutability = None;
        let copied = Copied::new(&ty)?;
        Ok(Self { declared, copied })
    }
}

impl Argument {
    fn new(declared: &PatType, options: &Options) -> Result<Self> {
        let Pat::Ident(pattern) = &*declared.pat else {
            let message = "give the argument a name, so that the key can name it";
            return Err(Error::new(declared.pat.span(), message));
        };
        // The compiler evaluates it later, and only where the macro has copied it to.
        let is_condition = |attribute: &&Attribute| {
            let path = attribute.path();
            path.is_ident("cfg") || path.is_ident("cfg_attr")
        };
        if let Some(condition) = declared.attrs.iter().find(is_condition) {
            let message = "an argument of a `#[cached]` function cannot have a condition: write a function for each \
                case, with the condition on the function";
            return Err(Error::new(condition.path().span(), message));
        }
        let name = pattern.ident.clone();
        let skip = declared.attrs.iter().find(|attribute| is_skip(attribute));
        let is_in = |code: &Code| mentions(code.expression.to_token_stream(), &name, false);
        let is_in_key = match (&options.key, skip) {
            (Some(key), None) if !is_in(key) => {
                let message = format!(
                    "`{name}` is not in the key, so callers with another `{name}` would get the same value: add \
                     `{name}` to `key`, or mark it `#[skip]` if it does not change the result"
                );
                return Err(Error::new(name.span(), message));
            }
            (Some(key), Some(skip)) if is_in(key) => {
                let message = format!(
                    "`{name}` is in the key: remove `#[skip]`, or take `{name}` out of `key`"
                );
                return Err(Error::new(skip.path().span(), message));
            }
            (_, skip) => skip.is_none(),
        };
        let mut tags = options.tags.iter().flatten();
        let is_in_tags = tags.any(|tag| mentions(tag.to_token_stream(), &name, false));
        let is_in_cache = options.cache.as_ref().is_some_and(is_in);
        let is_named = is_in_tags || is_in_cache || options.key.as_ref().is_some_and(is_in);
        Ok(Self {
            copied: Copied::new(&declared.ty)?,
            is_in_key,
            is_in_tags,
            is_in_cache,
            // A user who names it in an expression finds it there; lints are not about the uses of the macro.
            name: if is_named {
                name
            } else {
                generated_name(&name)
            },
            ty: (*declared.ty).clone(),
        })
    }

    fn as_key(&self) -> TokenStream {
        self.copied.borrowed(&self.name)
    }

    /// Whether it says which entry is meant.
    pub(crate) fn names_entry(&self) -> bool {
        self.is_in_key || self.is_in_cache
    }
}

impl Arguments {
    /// All problems of arguments are one error.
    pub(crate) fn new<'a>(
        inputs: impl Iterator<Item = &'a FnArg>,
        options: &Options,
    ) -> Result<Self> {
        let mut arguments = Self {
            receiver: None,
            all: Vec::new(),
        };
        let mut problems: Option<Error> = None;
        for input in inputs {
            let added = match input {
                FnArg::Receiver(declared) => {
                    Receiver::new(declared).map(|receiver| arguments.receiver = Some(receiver))
                }
                FnArg::Typed(declared) => {
                    Argument::new(declared, options).map(|argument| arguments.all.push(argument))
                }
            };
            match (added, &mut problems) {
                (Ok(()), _) => {}
                (Err(error), Some(problems)) => problems.combine(error),
                (Err(error), None) => problems = Some(error),
            }
        }
        problems.map_or(Ok(arguments), Err)
    }

    /// The declarations of `self` and of some arguments, without the `mut` of a body.
    pub(crate) fn declared(&self, are_meant: impl Fn(&Argument) -> bool) -> TokenStream {
        let receiver = self
            .receiver
            .iter()
            .map(|receiver| receiver.declared.to_token_stream());
        let arguments = self.all.iter().filter(|argument| are_meant(argument));
        let arguments = arguments.map(|Argument { name, ty, .. }| quote!(#name: #ty));
        let all = receiver.chain(arguments);
        quote!(#(#all,)*)
    }

    /// All arguments, to pass them on.
    pub(crate) fn passed_on(&self) -> TokenStream {
        let receiver = self
            .receiver
            .iter()
            .map(|receiver| receiver.declared.self_token.to_token_stream());
        let all = receiver.chain(
            self.all
                .iter()
                .map(|argument| argument.name.to_token_stream()),
        );
        quote!(#(#all,)*)
    }

    /// The arguments in the expression of the cache.
    pub(crate) fn of_cache(&self) -> impl Iterator<Item = &Ident> {
        let in_cache = self.all.iter().filter(|argument| argument.is_in_cache);
        in_cache.map(|argument| &argument.name)
    }

    /// Statements that copy `self` and all arguments, and the arguments made of the copies.
    pub(crate) fn copies(&self) -> (TokenStream, TokenStream) {
        let this = Ident::new("this", Span::mixed_site());
        let receiver = self.receiver.iter();
        let receiver = receiver.map(|Receiver { declared, copied }| {
            (
                copied.statement(&declared.self_token, &this),
                copied.made_of(&this),
            )
        });
        let arguments = self.all.iter();
        let arguments = arguments.map(|Argument { name, copied, .. }| {
            (copied.statement(name, name), copied.made_of(name))
        });
        let (statements, made): (Vec<_>, Vec<_>) = receiver.chain(arguments).unzip();
        (quote!(#(#statements)*), quote!(#(#made),*))
    }

    pub(crate) fn key(&self, options: &Options, function: Span) -> Result<Key> {
        let expression = match &options.key {
            Some(key) => unparenthesized(&key.expression).clone(),
            None => self.all_in_key(),
        };
        let span = match (&options.key, self.named(&expression)) {
            (Some(key), _) => key.span(),
            (None, Some(argument)) => argument.name.span(),
            (None, None) => function,
        };
        let (borrowed, owned) = match &expression {
            Expr::Tuple(tuple) if tuple.elems.len() > MAX_PARTS => {
                let message = format!(
                    "a key is a tuple of up to {MAX_PARTS} parts: take arguments together in a struct with \
                     `#[derive(CacheKey)]`"
                );
                return Err(Error::new(span, message));
            }
            Expr::Tuple(tuple) => {
                let parts = tuple.elems.iter().map(|part| match self.named(part) {
                    Some(argument) => (argument.as_key(), Some(argument.copied.ty())),
                    None => (part.to_token_stream(), None),
                });
                let (parts, types): (Vec<_>, Vec<_>) = parts.unzip();
                let types: Option<Vec<_>> = types.into_iter().collect();
                (
                    quote_spanned!(span=> &(#(#parts,)*)),
                    types.map(|types| quote!((#(#types,)*))),
                )
            }
            expression => match self.named(expression) {
                Some(argument) => (argument.as_key(), Some(argument.copied.ty())),
                None => (quote_spanned!(span=> &(#expression)), None),
            },
        };
        Ok(Key {
            borrowed,
            owned,
            span,
        })
    }

    /// Statements that borrow the copies of borrowed arguments, so that expressions of tags see them as the user does.
    pub(crate) fn borrowed_by_tags(&self) -> TokenStream {
        let borrowed = self.all.iter().filter(|argument| argument.is_in_tags);
        let borrowed = borrowed.filter(|argument| argument.copied.is_borrowed);
        let borrowed = borrowed.map(|Argument { name, .. }| quote!(let #name = &#name;));
        quote!(#(#borrowed)*)
    }

    /// An expression of a tag. The body needs the arguments afterwards.
    pub(crate) fn tag(&self, expression: &Expr) -> TokenStream {
        let part = |part: &Expr| match self.named(part) {
            Some(argument) => argument.as_key(),
            None => part.to_token_stream(),
        };
        match unparenthesized(expression) {
            Expr::Tuple(tuple) => {
                let parts = tuple.elems.iter().map(part);
                quote_spanned!(tuple.span()=> &(#(#parts,)*))
            }
            expression => {
                let tag = part(expression);
                quote_spanned!(expression.span()=> &(#tag))
            }
        }
    }

    /// The form of a key, which tells functions apart: literals and paths as they are written, and a sign for each part
    /// that is an argument or depends on one.
    pub(crate) fn form(&self, expression: &Expr) -> String {
        let expression = unparenthesized(expression);
        let as_written = || expression.to_token_stream().to_string();
        match expression {
            Expr::Tuple(tuple) => {
                let parts = tuple.elems.iter().map(|part| self.form(part));
                parts.collect::<Vec<_>>().join(", ")
            }
            Expr::Reference(reference) => self.form(&reference.expr),
            Expr::MethodCall(call) => self.form(&call.receiver),
            Expr::Lit(_) => as_written(),
            Expr::Path(_) if self.named(expression).is_none() => as_written(),
            Expr::Call(call) => call.func.to_token_stream().to_string(),
            Expr::Struct(value) => value.path.to_token_stream().to_string(),
            Expr::Macro(call) => {
                let text = call.mac.tokens.clone().into_iter().next();
                text.map_or_else(String::new, |text| text.to_string())
            }
            _ => ARGUMENT.to_owned(),
        }
    }

    /// The key if none is written.
    pub(crate) fn all_in_key(&self) -> Expr {
        let in_key = self.all.iter().filter(|argument| argument.is_in_key);
        let names: Vec<_> = in_key.map(|argument| &argument.name).collect();
        match names.as_slice() {
            [name] => parse_quote!(#name),
            names => parse_quote!((#(#names,)*)),
        }
    }

    /// The argument that an expression is.
    fn named(&self, expression: &Expr) -> Option<&Argument> {
        let Expr::Path(path) = expression else {
            return None;
        };
        let name = path.path.get_ident()?;
        self.all.iter().find(|argument| argument.name == *name)
    }
}

/// Whether this is the attribute that leaves an argument out of the key.
pub(crate) fn is_skip(attribute: &Attribute) -> bool {
    attribute.path().is_ident("skip")
}

fn is_static(reference: &TypeReference) -> bool {
    let lifetime = reference.lifetime.as_ref();
    lifetime.is_some_and(|lifetime| lifetime.ident == "static")
}

fn unparenthesized(mut expression: &Expr) -> &Expr {
    while let Expr::Paren(inner) = expression {
        expression = &inner.expr;
    }
    expression
}

/// Whether code uses a variable. A field, a method or an item of the same name is none. A literal of a macro uses what
/// it names in braces, as in `format!("{tenant}")`.
fn mentions(code: TokenStream, variable: &Ident, is_of_macro: bool) -> bool {
    let mut before = [None, None];
    let mut were_names = [false, false];
    let mut tokens = code.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let sign = |token: &TokenTree| match token {
            TokenTree::Punct(punct) => Some(punct.as_char()),
            _ => None,
        };
        let found = match &token {
            TokenTree::Group(group) => {
                let is_of_macro = is_of_macro || (were_names[0] && before[1] == Some('!'));
                mentions(group.stream(), variable, is_of_macro)
            }
            TokenTree::Literal(literal) if is_of_macro => {
                let text = syn::parse2::<LitStr>(literal.to_token_stream());
                text.is_ok_and(|text| formats(&text.value(), variable))
            }
            TokenTree::Ident(ident) => {
                // `..id` is a range, and not a field.
                let is_member = before == [None, Some('.')] || before == [Some(':'), Some(':')];
                // Also the name of a field in `Key { id: 7 }`.
                let is_path_or_field = tokens.peek().and_then(sign) == Some(':');
                ident == variable && !is_member && !is_path_or_field
            }
            _ => false,
        };
        if found {
            return true;
        }
        before = [before[1], sign(&token)];
        were_names = [were_names[1], matches!(token, TokenTree::Ident(_))];
    }
    false
}

/// Whether a `format!` string names a variable, as in `{id}` or `{id:?}`.
fn formats(text: &str, variable: &Ident) -> bool {
    // Format strings name it without `r#`.
    let variable = variable.unraw().to_string();
    // Two braces stand for one.
    let text = text.replace("{{", "");
    text.split('{').skip(1).any(|piece| {
        let name = piece.split(['}', ':']).next();
        name.is_some_and(|name| name.trim() == variable)
    })
}

/// Refuses what a copy of this type would still borrow, by a message of the caller, and `impl Trait`.
pub(crate) fn check_owned(ty: TokenStream, borrows: &str) -> Result<()> {
    let mut tokens = ty.into_iter();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Group(group) => check_owned(group.stream(), borrows)?,
            TokenTree::Ident(ident) if ident == "impl" => {
                return Err(Error::new(ident.span(), NO_IMPL));
            }
            // A lifetime, and a reference without one.
            TokenTree::Punct(sign) if sign.as_char() == '\'' => {
                let name = tokens.next().map(|name| name.to_string());
                if name.as_deref() != Some("static") {
                    return Err(Error::new(sign.span(), borrows));
                }
            }
            TokenTree::Punct(sign) if sign.as_char() == '&' => {
                let mut rest = tokens.clone();
                let next = rest.next().map(|next| next.to_string());
                if next.as_deref() != Some("'") {
                    return Err(Error::new(sign.span(), borrows));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
