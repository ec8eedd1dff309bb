//! `#[cached]`.
//!
//! The body becomes a function of its own, `uncached`, and the function itself looks the key up, with `uncached` in its
//! loader. The companions of a method are beside it. The companions of a free function belong to an enum without
//! variants that has the function's name, as types and functions have separate names.

mod arguments;
mod options;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{
    AttrStyle, Attribute, Block, Error, FnArg, GenericArgument, GenericParam, ItemFn, Meta,
    PathArguments, Result, ReturnType, Safety, TraitItemFn, Type, parse_quote,
};

use self::arguments::{Argument, Arguments, Key, check_owned, is_skip};
use self::options::Options;

const RETURNS_BORROWED: &str = "the value is kept for other callers, so it cannot borrow: return an owned type, such as \
    `String`";

const OF_A_TRAIT: &str = "a method of a trait cannot be cached, as its companions would be members of the trait: cache a \
    method of the type, and call it from the trait's";

/// As `quote!`, for code with variables: they are not seen by the user's expressions in it.
macro_rules! generated {
    ($($code:tt)*) => { quote_spanned!(Span::mixed_site()=> $($code)*) };
}

/// What is written where the function is none that can be cached, as it does not parse.
pub(crate) fn refused(item: &TokenStream, error: Error) -> TokenStream {
    let declared = syn::parse2::<TraitItemFn>(item.clone());
    let Ok(TraitItemFn {
        sig, default: None, ..
    }) = declared
    else {
        return error.into_compile_error();
    };
    let error = Error::new(sig.ident.span(), OF_A_TRAIT).into_compile_error();
    quote!(#error #item)
}

pub(crate) fn expand(options: TokenStream, mut function: ItemFn) -> TokenStream {
    let inputs: Vec<FnArg> = function.sig.inputs.iter().cloned().collect();
    // Those at the start of the body are attributes of the function, which is written without its body, too.
    for attribute in &mut function.attrs {
        attribute.style = AttrStyle::Outer;
    }
    // From here on it is the function as the compiler knows it.
    for input in &mut function.sig.inputs {
        if let FnArg::Typed(argument) = input {
            argument.attrs.retain(|attribute| !is_skip(attribute));
        }
    }
    let cached = syn::parse2(options).and_then(|options| Cached::new(options, &function, &inputs));
    cached.map_or_else(
        |error| {
            // Otherwise each call of the function would be an error, too.
            let error = error.into_compile_error();
            quote!(#error #function)
        },
        |cached| cached.expand(),
    )
}

/// What the function returns.
struct Returned {
    ty: Type,
    value: Type,
    is_result: bool,
}

impl Returned {
    fn new(output: &ReturnType, function: &Ident, options: &Options) -> Result<Self> {
        let ReturnType::Type(_, ty) = output else {
            return Err(Error::new(
                function.span(),
                "the function returns nothing to cache: write the type of its value, as in `-> Result<Product, Error>`",
            ));
        };
        check_owned(ty.to_token_stream(), RETURNS_BORROWED)?;
        let (ty, is_result) = (
            (**ty).clone(),
            last_name(ty).is_some_and(|name| name == "Result"),
        );
        let value = match (is_result, first_parameter(&ty)) {
            (false, _) => ty.clone(),
            (true, Some(value)) => value.clone(),
            (true, None) => {
                return Err(Error::new(
                    ty.span(),
                    "name the type of the value, as in `Result<Product, Error>`",
                ));
            }
        };
        if let (Type::Reference(reference), Some(_)) = (&value, &options.namespace) {
            let message = "a value that is read from Redis borrows nothing: return an owned type, such as `String`";
            return Err(Error::new(reference.and_token.span(), message));
        }
        if let Some(none_ttl) = &options.none_ttl
            && last_name(&value).is_none_or(|name| name != "Option")
        {
            let message = "`none_ttl` is for a function that returns `Option<T>` or `Result<Option<T>, E>`: remove it";
            return Err(Error::new(none_ttl.span(), message));
        }
        Ok(Self {
            ty,
            value,
            is_result,
        })
    }
}

/// A place in the user's code, for names that the macro has written: lints are about the user's own. Apart from the
/// variables of the macro, so that an argument may have the name of one of these.
fn generated_at(span: Span) -> Span {
    Span::call_site().located_at(span)
}

fn generated_name(name: &Ident) -> Ident {
    let mut name = name.clone();
    name.set_span(generated_at(name.span()));
    name
}

fn generated_code(code: TokenStream) -> TokenStream {
    let generated = code.into_iter().map(|mut token| {
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), generated_code(group.stream())).into();
        }
        token.set_span(generated_at(token.span()));
        token
    });
    generated.collect()
}

fn last_name(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) => Some(&path.path.segments.last()?.ident),
        _ => None,
    }
}

fn first_parameter(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else {
        return None;
    };
    let PathArguments::AngleBracketed(parameters) = &path.path.segments.last()?.arguments else {
        return None;
    };
    match parameters.args.first()? {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }
}

/// Refuses what no cache can be for.
fn check(function: &ItemFn, options: &Options) -> Result<()> {
    let signature = &function.sig;
    let refused = |span, message| Err(Error::new(span, message));
    // The macro `async_trait` has made another function of it, which has a lifetime of this name.
    let mut lifetimes = signature.generics.lifetimes();
    if lifetimes.any(|parameter| parameter.lifetime.ident == "async_trait") {
        return refused(signature.ident.span(), OF_A_TRAIT);
    }
    if signature.asyncness.is_none() {
        let message =
            "write `async fn`: a look-up may wait for another caller's load, and for Redis";
        return refused(signature.fn_token.span(), message);
    }
    if let Safety::Unsafe(token) = &signature.safety {
        let message = "the body runs in another task, and its value is for other callers, too: what one caller promises \
            for an `unsafe` function does not hold there. Write a safe function";
        return refused(token.span(), message);
    }
    let is_lifetime = |parameter: &&GenericParam| matches!(parameter, GenericParam::Lifetime(_));
    if let Some(parameter) = signature
        .generics
        .params
        .iter()
        .find(|parameter| !is_lifetime(parameter))
    {
        let message = "a generic function would need a cache for each type: write a function for each type, which \
            calls the generic one";
        return refused(parameter.span(), message);
    }
    match (&options.cache, &options.namespace) {
        (None, None) if signature.receiver().is_some() => {
            let message = "say which cache has the values: `cache = \"self.products\"`";
            refused(Span::call_site(), message)
        }
        (None, None) => {
            let message = "say which cache has the values: `namespace = \"shop:product\"`, a cache among those of the \
                process, or `cache = \"…\"`, an expression";
            refused(Span::call_site(), message)
        }
        (Some(_), Some(namespace)) => {
            let message =
                "`cache` names a cache, and `namespace` builds one: remove one of the two";
            refused(namespace.span(), message)
        }
        (None, Some(namespace)) if signature.receiver().is_some() => {
            let message = "`namespace` is for free functions: keep the cache of a method in its type, and write \
                `cache = \"self.products\"`";
            refused(namespace.span(), message)
        }
        _ => Ok(()),
    }
}

struct Cached<'a> {
    function: &'a ItemFn,
    options: Options,
    arguments: Arguments,
    returned: Returned,
    key: Key,
    names: Names,
}

/// The names of the companions, and the paths by which they call each other.
struct Names {
    uncached: Ident,
    load: Ident,
    refresh: Ident,
    get: Ident,
    invalidate: Ident,
    /// What they belong to.
    of: Ident,
}

impl Names {
    fn new(function: &syn::Signature) -> Self {
        let name = &function.ident;
        let is_method = function.receiver().is_some();
        let named = |companion: &str| {
            if is_method {
                format_ident!(
                    "{}_{companion}",
                    name.unraw(),
                    span = generated_at(name.span())
                )
            } else {
                Ident::new(companion, generated_at(name.span()))
            }
        };
        Self {
            uncached: named("uncached"),
            load: named("load_by_macro"),
            refresh: named("refresh"),
            get: named("get"),
            invalidate: named("invalidate"),
            of: if is_method {
                Ident::new("Self", name.span())
            } else {
                name.clone()
            },
        }
    }
}

impl<'a> Cached<'a> {
    fn new(options: Options, function: &'a ItemFn, inputs: &[FnArg]) -> Result<Self> {
        check(function, &options)?;
        let name = &function.sig.ident;
        let arguments = Arguments::new(inputs.iter(), &options)?;
        let returned = Returned::new(&function.sig.output, name, &options)?;
        let key = arguments.key(&options, name.span())?;
        if key.owned.is_none() && options.namespace.is_some() {
            let message = "the key of a cache that `namespace` builds is an argument or a tuple of arguments, whose \
                types are those of its keys. For another key, build a cache, and write `cache = \"…\"`";
            return Err(Error::new(key.span, message));
        }
        let names = Names::new(&function.sig);
        Ok(Self {
            function,
            options,
            arguments,
            returned,
            key,
            names,
        })
    }

    fn expand(&self) -> TokenStream {
        let (function, companions, keys) = (self.function(), self.companions(), self.keys());
        if self.function.sig.receiver().is_some() {
            let of_no_trait = self.of_no_trait();
            return quote!(#function #of_no_trait #keys #companions);
        }
        let ItemFn { vis, sig, .. } = self.function;
        let (name, conditions) = (&sig.ident, self.attributes(is_condition));
        let doc = format!(
            "The cache of the function `{name}`: calls that look up, load and remove its values."
        );
        let cache = self.cache_of_function();
        let (vis, name) = (generated_code(vis.to_token_stream()), generated_name(name));
        generated! {
            #function
            #keys
            #(#conditions)*
            #[doc = #doc]
            #vis enum #name {}
            #(#conditions)*
            impl #name {
                #cache
                #companions
            }
        }
    }

    /// The function as the user has declared it, with a look-up for its body.
    fn function(&self) -> TokenStream {
        let ItemFn {
            attrs, vis, sig, ..
        } = self.function;
        let (attributes, name) = (attrs.iter().map(allowed), &sig.ident);
        let (declared, passed) = (
            self.arguments.declared(|_| true),
            self.arguments.passed_on(),
        );
        let (generics, output, bounds) = (&sig.generics, &sig.output, &sig.generics.where_clause);
        let Names { of, load, .. } = &self.names;
        quote! {
            #(#attributes)*
            #vis async fn #name #generics(#declared) #output #bounds {
                #of::#load::<false>(#passed).await
            }
        }
    }

    fn companions(&self) -> TokenStream {
        let ItemFn { vis, sig, .. } = self.function;
        let Names {
            uncached,
            load,
            refresh,
            get,
            invalidate,
            of,
        } = &self.names;
        let (generics, output, bounds, inputs) = (
            &sig.generics,
            &sig.output,
            &sig.generics.where_clause,
            &sig.inputs,
        );
        let (all, passed) = (
            self.arguments.declared(|_| true),
            self.arguments.passed_on(),
        );
        let of_entry = self.arguments.declared(Argument::names_entry);
        let (cache, value) = (self.cache(), &self.returned.value);
        let nothing = TokenStream::new();
        let (get_it, invalidate_it) = (
            self.call("get", &nothing),
            self.call("invalidate", &nothing),
        );
        let (look_up, body) = (self.look_up(), self.body());
        let (conditions, lints) = (self.attributes(is_condition), self.attributes(is_lint));
        let allowed_lints = lints.iter().map(|lint| allowed(lint));
        let attributes = quote! {
            #(#conditions)*
            #(#allowed_lints)*
        };
        let vis = generated_code(vis.to_token_stream());
        // No argument: a function may have as many as a lint allows.
        let mut of_load = generics.clone();
        of_load.params.push(parse_quote!(const REFRESH: bool));
        let name = &sig.ident;
        let of_uncached =
            format!("Calls the body of `{name}`: neither looks up nor stores a value.");
        let of_refresh = format!(
            "Calls the body of `{name}` now, and stores its value, see `larder::Cache::refresh`."
        );
        let of_get =
            format!("The value that `{name}` has stored. Does not load: see `larder::Cache::get`.");
        let of_invalidate =
            format!("Removes the value that `{name}` has stored, see `larder::Cache::invalidate`.");
        generated! {
            #(#conditions)*
            #(#lints)*
            #[doc = #of_uncached]
            #vis async fn #uncached #generics(#inputs) #output #bounds #body

            #attributes
            #[doc = #of_refresh]
            #vis async fn #refresh #generics(#all) #output #bounds {
                #of::#load::<true>(#passed).await
            }

            #attributes
            #[doc = #of_get]
            #vis async fn #get #generics(#of_entry) -> ::core::option::Option<::larder::Entry<#value>> #bounds {
                #cache
                #get_it
            }

            #attributes
            #[doc = #of_invalidate]
            #vis async fn #invalidate #generics(#of_entry)
                -> ::core::result::Result<::larder::Token, ::larder::WriteError> #bounds
            {
                #cache
                #invalidate_it
            }

            #attributes
            async fn #load #of_load(#all) #output #bounds {
                #cache
                #look_up
            }
        }
    }

    /// A variable with the cache. Were it of the macro's own context, the compiler would show all of the attribute if
    /// the cache has other keys.
    fn cache_variable(&self) -> Ident {
        Ident::new("cache_of_macro", self.key.span)
    }

    /// The statement that declares the variable.
    fn cache(&self) -> TokenStream {
        let Self {
            options,
            returned,
            function,
            ..
        } = self;
        let (name, variable) = (&function.sig.ident, self.cache_variable());
        let Some(cache) = &options.cache else {
            return quote!(let #variable = #name::cache(););
        };
        let (expression, value) = (&cache.expression, &returned.value);
        // The compiler shows the literal if it is no such cache.
        let ty = quote_spanned!(cache.literal.span()=> &::larder::Cache<_, #value>);
        let borrowed = quote_spanned!(cache.literal.span()=> &(#expression));
        generated!(let #variable: #ty = #borrowed;)
    }

    /// The companion `cache`, of a function that builds its cache.
    fn cache_of_function(&self) -> Option<TokenStream> {
        let namespace = self.options.namespace.as_ref()?;
        let (ItemFn { vis, sig, .. }, options) = (self.function, &self.options);
        let (keys, values, ttls) = (&self.key.owned, &self.returned.value, options.ttls());
        let ttl = options
            .ttl
            .as_ref()
            .map(|_| generated!(let builder = builder.l2_ttl(TTL);));
        let soft_ttl = options
            .soft_ttl
            .as_ref()
            .map(|_| generated!(let builder = builder.soft_ttl(SOFT_TTL);));
        let message =
            "write the type as `Result<T, E>`: by another name it is cached with its errors";
        let no_errors = quote_spanned! {values.span()=>
            use ::larder::generated::NotResult as _;
            const _: () = ::core::assert!(!::larder::generated::IsResult::<#values>::VALUE, #message);
        };
        // The compiler shows the type of the value if it cannot be stored.
        let get = quote_spanned!(values.span()=> ::larder::generated::OnceCache::get);
        let cache = Ident::new("CACHE", values.span());
        let cached = quote_spanned!(values.span()=> &#cache);
        let doc = format!(
            "The cache of `{}`, which is built by the first call. Call it at the start of the process, so that the \
             options are checked there, and `larder::Caches::check_settings` knows the cache.",
            sig.ident
        );
        Some(generated! {
            #[doc = #doc]
            #vis fn cache() -> ::core::result::Result<&'static ::larder::Cache<#keys, #values>, ::larder::BuildError> {
                #ttls
                #no_errors
                static #cache: ::larder::generated::OnceCache<#keys, #values> = ::larder::generated::OnceCache::new();
                #get(#cached, #namespace, |builder| {
                    #ttl
                    #soft_ttl
                    builder
                })
            }
        })
    }

    /// The call of a function that looks the key up. The compiler shows the user's key if the cache has others.
    fn call(&self, function: &str, others: &TokenStream) -> TokenStream {
        let Key { borrowed, span, .. } = &self.key;
        let cache = self.cache_variable();
        let cache = if self.options.cache.is_some() {
            quote_spanned!(*span=> ::core::result::Result::Ok(#cache))
        } else {
            quote!(#cache)
        };
        let at = quote_spanned!(*span=> ::larder::generated::at(#borrowed, #cache));
        let function = Ident::new(function, *span);
        quote_spanned!(*span=> ::larder::generated::#function(#at, #others).await)
    }

    /// The user's body. Some arguments may be there only for the expression of the cache.
    fn body(&self) -> Block {
        let mut body = (*self.function.block).clone();
        // Among the statements: a block around the user's own would make its braces needless, for a lint.
        let others = self.arguments.of_cache();
        let uses = others.map(|other| parse_quote!(let _ = &#other;));
        body.stmts.splice(0..0, uses);
        body
    }

    /// The end of the function that looks up and loads.
    fn look_up(&self) -> TokenStream {
        let Names { uncached, of, .. } = &self.names;
        let (copies, copied) = self.arguments.copies();
        let look_up = self.call("load", &generated!(&FUNCTION, REFRESH, load));
        // The compiler shows the function if its body or an argument cannot be sent to the task of the load.
        let span = generated_at(self.function.sig.ident.span());
        let future = Ident::new("future", span);
        let load_of = quote_spanned!(span=> ::larder::generated::LoadOf::new(#future));
        let function = self.known_function();
        let (tags, loaded) = self.stored();
        let body = quote!(#of::#uncached(#copied).await);
        let [loaded, found, failed] = if self.returned.is_result {
            self.of_result(&body, &loaded)
        } else {
            self.of_value(&body, &loaded)
        };
        generated! {
            #function
            let load = || {
                #copies
                let #future = async move {
                    #tags
                    #loaded
                };
                #load_of
            };
            match #look_up {
                ::core::result::Result::Ok(entry) => #found,
                ::core::result::Result::Err(error) => #failed,
            }
        }
    }

    /// The static by which the cache tells functions apart.
    fn known_function(&self) -> TokenStream {
        let name = self.function.sig.ident.unraw().to_string();
        let form = if self.shares_keys() {
            quote!(::core::option::Option::None)
        } else {
            let form = self.form_of_keys();
            quote!(::core::option::Option::Some(#form))
        };
        generated! {
            static FUNCTION: ::larder::generated::Function = ::larder::generated::Function::new(
                #form,
                ::core::concat!(::core::module_path!(), "::", #name, " (", ::core::file!(), ":", ::core::line!(), ")"),
            );
        }
    }

    fn form_of_keys(&self) -> String {
        match &self.options.key {
            Some(key) => self.arguments.form(&key.expression),
            None => self.arguments.form(&self.arguments.all_in_key()),
        }
    }

    fn shares_keys(&self) -> bool {
        let shares = self.options.shares_keys.as_ref();
        shares.is_some_and(|shares| shares.value)
    }

    /// A constant whose name says why the compiler refuses a method in the `impl` of a trait, where each companion is an
    /// error. The macro cannot: it sees the method, and not what the method is in.
    fn of_no_trait(&self) -> TokenStream {
        let method = &self.function.sig.ident;
        let name = format!(
            "_A_METHOD_OF_A_TRAIT_CANNOT_BE_CACHED_CALL_A_CACHED_METHOD_OF_THE_TYPE_FROM_{}",
            method.unraw()
        );
        let span = generated_at(method.span());
        let name = Ident::new(&name, span);
        let conditions = self.attributes(is_condition);
        quote_spanned! {span=>
            #(#conditions)*
            const #name: () = ();
        }
    }

    /// A constant whose name two functions have that have the same keys in one cache: the compiler refuses the second.
    /// It sees them where the code names the cache alike, in one module or for one type; the others are found when they
    /// are called.
    fn keys(&self) -> Option<TokenStream> {
        let cache = self.options.cache.as_ref()?;
        // The same argument may be another cache.
        if self.shares_keys() || self.arguments.of_cache().next().is_some() {
            return None;
        }
        let expression = cache.expression.to_token_stream().to_string();
        // Two forms may have one name, so it ends with a number of the form.
        let mut number = DefaultHasher::new();
        (&expression, self.form_of_keys()).hash(&mut number);
        let letters = expression.chars().filter(|sign| !sign.is_whitespace());
        let letters = letters.map(|sign| match sign {
            'a'..='z' | 'A'..='Z' | '0'..='9' => sign.to_ascii_uppercase(),
            _ => '_',
        });
        let letters: String = letters.collect();
        let number = number.finish();
        let name = format!("_TWO_FUNCTIONS_SHARE_KEYS_OF_{letters}_{number:X}");
        let name = Ident::new(&name, generated_at(cache.span()));
        let conditions = self.attributes(is_condition);
        Some(generated! {
            #(#conditions)*
            const #name: () = ();
        })
    }

    /// Of a function that returns a `Result`: the end of the loader, and what an `entry` or an `error` becomes.
    fn of_result(&self, body: &TokenStream, loaded: &TokenStream) -> [TokenStream; 3] {
        let Returned { ty, value, .. } = &self.returned;
        let boxed = quote_spanned!(ty.span()=> ::larder::generated::boxed);
        let convert = quote_spanned! {ty.span()=>
            (&::larder::generated::ErrorOf::<<#ty as ::larder::generated::Fallible>::Error>::NEW).way().error
        };
        let found = self.found();
        [
            generated!(#body.map(|value: #value| #loaded).map_err(|error| #boxed(error))),
            quote!(::core::result::Result::Ok(#found)),
            generated!({
                use ::larder::generated::{ConvertedError as _, OwnError as _};
                ::core::result::Result::Err(#convert(error))
            }),
        ]
    }

    /// The same of a function that returns a value.
    fn of_value(&self, body: &TokenStream, loaded: &TokenStream) -> [TokenStream; 3] {
        let (Names { uncached, of, .. }, value) = (&self.names, &self.returned.value);
        let passed = self.arguments.passed_on();
        let name = self.function.sig.ident.unraw().to_string();
        [
            generated!({
                let value: #value = #body;
                ::core::result::Result::Ok(#loaded)
            }),
            self.found(),
            generated!({
                ::larder::generated::runs_without_cache(#name, &error);
                #of::#uncached(#passed).await
            }),
        ]
    }

    /// The value of an `entry`.
    fn found(&self) -> TokenStream {
        let value = &self.returned.value;
        let clone = quote_spanned!(value.span()=> <#value as ::core::clone::Clone>::clone);
        generated!(#clone(::larder::Entry::value(&entry)))
    }

    /// The statement before the body, and the `value` of the body as it is stored.
    fn stored(&self) -> (TokenStream, TokenStream) {
        let options = &self.options;
        let mut loaded = generated!(::larder::Loaded::new(value));
        let mut constants = options.ttl_of_none();
        // A cache that `namespace` builds has the TTLs as options, which settings override.
        if options.cache.is_some() {
            constants.extend(options.ttls());
            loaded.extend(options.ttl.as_ref().map(|_| quote!(.ttl(TTL))));
            loaded.extend(
                options
                    .soft_ttl
                    .as_ref()
                    .map(|_| quote!(.soft_ttl(SOFT_TTL))),
            );
        }
        let tags = options.tags.as_ref().map(|all| {
            let tags = all.iter().map(|tag| {
                let (span, tag) = (tag.span(), self.arguments.tag(tag));
                quote_spanned!(span=> .and(#tag))
            });
            loaded = generated!(tags.of(#loaded));
            let borrowed = self.arguments.borrowed_by_tags();
            generated! {
                let tags = {
                    #borrowed
                    ::larder::generated::Tags::default() #(#tags)*
                };
            }
        });
        if options.none_ttl.is_some() {
            loaded = generated! {
                let is_none = ::core::option::Option::is_none(&value);
                let loaded = #loaded;
                if is_none { loaded.ttl(NONE_TTL) } else { loaded }
            };
        }
        (tags.unwrap_or_default(), quote!({ #constants #loaded }))
    }

    fn attributes(&self, are_meant: fn(&Attribute) -> bool) -> Vec<&Attribute> {
        let all = self.function.attrs.iter();
        all.filter(|attribute| are_meant(attribute)).collect()
    }
}

/// Whether all that is generated has to have it.
fn is_condition(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
}

/// Whether the body has to have it, too.
fn is_lint(attribute: &Attribute) -> bool {
    let lints = ["allow", "warn", "deny", "forbid", "expect"];
    lints.iter().any(|lint| attribute.path().is_ident(lint))
}

/// An attribute as the function has it when its body is elsewhere: the lint that is expected may be of the body.
fn allowed(attribute: &Attribute) -> Attribute {
    let mut attribute = attribute.clone();
    if let Meta::List(list) = &mut attribute.meta
        && list.path.is_ident("expect")
    {
        let span = list.path.span();
        list.path = Ident::new("allow", span).into();
    }
    attribute
}
