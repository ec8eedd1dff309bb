//! Keys: how a type writes itself as the text of a Redis key, and by which borrowed forms a key is looked up.
//!
//! For code that implements [`CacheKey`] for a type of its own or is generic over keys, and for tests and tools that
//! find a key in Redis ([`redis_key`]). Strings, integers, UUIDs and tuples of these are keys already.
//!
//! Writing a key does not allocate: the text is written into a buffer on the stack, and the cache refuses a key that
//! does not fit.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::ops::Deref;
use std::sync::Arc;

use arrayvec::ArrayString;
use smol_str::SmolStr;

pub use crate::lookup_by::{KeyFrom, LookupBy};

/// The longest text of a key, in bytes. A longer key is refused: [`get`](crate::Cache::get) has nothing for it, and
/// the calls that can fail return an error.
pub const MAX_KEY_BYTES: usize = 1024;

/// The text of a key, as [`CacheKey`] wrote it. Cheap to clone.
// A word more than an `Arc<str>`, but a text of up to 23 bytes is held in place: it takes no memory of its own, and no
// reference count that threads would share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(SmolStr);

/// The longest text, in bytes, that is held in place.
pub(crate) const SHORT_KEY_BYTES: usize = 23;

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Deref for Key {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        **self == **other
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key that can write itself as the text of a Redis key.
///
/// These are keys already:
///
/// - strings, `char`, `bool`, integers, also as `NonZero`, and IP addresses; with the feature `uuid`, `uuid::Uuid`;
/// - tuples of up to eight keys, arrays and `Option`s of keys, and `()`;
/// - references, boxes and `Arc`s of keys.
///
/// A lone string is written as it is. The parts of a compound key are joined with `:`, and a `:` or `\` inside a part
/// gets a backslash, so two different keys of one type never share a text:
///
/// | key                             | text               |
/// |---------------------------------|--------------------|
/// | `"a:b"`                         | `a:b`              |
/// | `(1, 2)`                        | `1:2`              |
/// | `("a", "b:c")`                  | `a:b\:c`           |
/// | `("a:b", "c")`                  | `a\:b:c`           |
/// | `None`                          | `none`             |
/// | `Some(7)`                       | `some:7`           |
/// | `("a", Some(7))`                | `a:some\:7`        |
/// | `[1, 2]`: its length first      | `2:1:2`            |
/// | `()`                            | the empty text     |
/// | `Ipv6Addr::LOCALHOST`           | `::1`              |
///
/// Values in Redis are found by these texts, so no version of this crate changes them.
///
/// # Your own key types
///
/// With the feature `macros`, `#[derive(CacheKey)]` implements the trait for structs and enums. For an implementation by
/// hand, or for a type that is looked up by a borrowed form, these rules hold.
///
/// Two keys that are equal must write the same text, and two keys of one type
/// that differ must write different texts. The second holds if every value
/// writes one of these:
///
/// - one text with [`KeyWriter::text`] (or `write!`), different for every value;
/// - its fields, all of them, each with [`KeyWriter::part`], and always in the
///   same order;
/// - for an enum: first a part that names the variant, then the fields of that
///   variant as parts;
/// - for a list or anything else that varies in length: first the length as a
///   part, then the elements as parts.
///
/// Use either text or parts within one type, not both. A type that is looked up
/// by a borrowed form (`String` by `str`) must write the same text as that form;
/// [`LookupBy`] has an example.
///
/// ```
/// use larder::key::{CacheKey, KeyWriter, redis_key};
///
/// enum Page {
///     Home,
///     Article { section: String, id: u64 },
/// }
///
/// impl CacheKey for Page {
///     fn write_key(&self, out: &mut KeyWriter) {
///         match self {
///             Page::Home => out.part("home"),
///             Page::Article { section, id } => {
///                 out.part("article");
///                 out.part(section);
///                 out.part(id);
///             }
///         }
///     }
/// }
///
/// let page = Page::Article { section: "news".into(), id: 7 };
/// assert_eq!(redis_key(&page).as_deref(), Some("article:news:7"));
/// assert_eq!(redis_key(&Page::Home).as_deref(), Some("home"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a cache",
    label = "`CacheKey` is not implemented for `{Self}`",
    note = "keys are strings, integers, UUIDs (feature `uuid`), IP addresses, tuples, arrays and options of keys",
    note = "for a type of your own, write `#[derive(larder::CacheKey)]` (feature `macros`), or implement the trait: each field with `out.part(&self.field)`"
)]
pub trait CacheKey {
    /// Writes the key to `out`.
    ///
    /// Writing cannot fail: a text that does not fit is dropped, and the cache then
    /// refuses the key as a whole.
    fn write_key(&self, out: &mut KeyWriter);

    /// The text that a lone key would write, if it holds that already, so that a look-up need not copy it.
    ///
    /// Only this crate's keys can have it, as no other crate can name the argument: it must be the very
    /// text of [`write_key`](Self::write_key).
    #[doc(hidden)]
    fn as_written(&self, _: sealed::Sealed) -> Option<&str> {
        None
    }
}

mod sealed {
    pub struct Sealed;
}

/// Takes the text of one key; see [`CacheKey`].
#[derive(Debug)]
pub struct KeyWriter {
    text: ArrayString<MAX_KEY_BYTES>,
    overflow: bool,
    /// How many compound keys enclose the present part.
    depth: usize,
    /// How many parts the innermost compound key has so far.
    parts: usize,
}

impl KeyWriter {
    /// Writes one part of a compound key, after a `:` if it is not the first.
    pub fn part<K: CacheKey + ?Sized>(&mut self, key: &K) {
        if self.parts > 0 {
            self.text(SEPARATOR);
        }
        // Otherwise a type that contains itself would overflow the stack.
        if self.depth == MAX_DEPTH {
            self.overflow = true;
        }
        if self.overflow {
            return;
        }
        // The inner key counts its own parts, and the outer one goes on with its count.
        let parts = std::mem::take(&mut self.parts);
        self.depth += 1;
        key.write_key(self);
        self.depth -= 1;
        self.parts = parts + 1;
    }

    /// Writes plain text, escaped if this is a part of a compound key.
    ///
    /// Texts written one after another simply follow one another.
    pub fn text(&mut self, text: &str) {
        // A key of its own needs no escaping.
        if self.depth == 0 {
            return self.push(text);
        }
        // Byte by byte, which costs a fraction of char by char: the special ones are ASCII.
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| matches!(byte, b':' | b'\\')) {
            let (plain, special) = rest.split_at(at);
            let (special, after) = special.split_at(1);
            self.push(plain);
            self.push_backslashes();
            self.push(special);
            rest = after;
        }
        self.push(rest);
    }

    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            text: ArrayString::new(),
            overflow: false,
            depth: 0,
            parts: 0,
        }
    }

    /// The text of `key`, where it was written: moving the buffer would cost more than a usual key.
    #[inline]
    pub(crate) fn write<'a, Q>(&'a mut self, key: &'a Q) -> Result<&'a str, KeyTooLong>
    where
        Q: CacheKey + ?Sized,
    {
        if let Some(text) = key.as_written(sealed::Sealed) {
            let fits = text.len() <= MAX_KEY_BYTES;
            return fits.then_some(text).ok_or(KeyTooLong);
        }
        key.write_key(self);
        if self.overflow {
            return Err(KeyTooLong);
        }
        Ok(&self.text)
    }

    /// Pushes the backslashes that escaping a special character once per level puts before it:
    /// each round doubles the backslashes and adds one.
    fn push_backslashes(&mut self) {
        // `depth` is at most `MAX_DEPTH`, so the shift does not overflow.
        let count = (1_usize << self.depth) - 1;
        if count > self.text.remaining_capacity() {
            self.overflow = true;
            return;
        }
        for _ in 0..count {
            self.push("\\");
        }
    }

    #[inline]
    fn push(&mut self, text: &str) {
        if !self.overflow {
            // Once it is too long, it stays so: a shorter text behind it must not make another key of it.
            self.overflow = self.text.try_push_str(text).is_err();
        }
    }
}

/// For `write!`; fails once the key is too long, and that need not be looked at.
impl fmt::Write for KeyWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        if self.overflow {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// The text a cache writes for `key`, or `None` if it is longer than
/// [`MAX_KEY_BYTES`].
///
/// The cache puts a prefix of its own before this text. Use it to find an entry
/// with `redis-cli`, or in a test of your own [`CacheKey`] type. Unlike the
/// cache itself it allocates.
///
/// ```
/// use larder::key::redis_key;
///
/// let key = ("user:7", "profile", 2);
/// assert_eq!(redis_key(&key).as_deref(), Some(r"user\:7:profile:2"));
/// assert_eq!(redis_key(&"x".repeat(1025)), None);
/// ```
#[must_use]
pub fn redis_key<K: CacheKey + ?Sized>(key: &K) -> Option<String> {
    KeyWriter::new().write(key).ok().map(str::to_owned)
}

/// The text of `key`, as the engine handles it.
pub(crate) fn key_text<K: CacheKey + ?Sized>(key: &K) -> Result<Key, KeyTooLong> {
    Ok(KeyWriter::new().write(key)?.into())
}

/// The texts of these keys, and an error if one does not fit.
pub(crate) fn key_texts<K: CacheKey>(
    keys: impl IntoIterator<Item = K>,
) -> (BTreeSet<Key>, Result<(), KeyTooLong>) {
    let mut all_fit = Ok(());
    let texts = keys.into_iter().map(|key| key_text(&key));
    let fitting = texts.filter_map(|text| text.map_err(|error| all_fit = Err(error)).ok());
    (fitting.collect(), all_fit)
}

/// The key's text does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is longer than {MAX_KEY_BYTES} bytes")]
pub(crate) struct KeyTooLong;

const SEPARATOR: &str = ":";

/// Levels of compound keys; at level 11 one separator would already need more
/// backslashes than fit.
const MAX_DEPTH: usize = 16;

/// A string is its own text.
impl CacheKey for str {
    fn write_key(&self, out: &mut KeyWriter) {
        out.text(self);
    }

    #[inline]
    fn as_written(&self, _: sealed::Sealed) -> Option<&str> {
        Some(self)
    }
}

/// A string is its own text.
impl CacheKey for String {
    fn write_key(&self, out: &mut KeyWriter) {
        out.text(self);
    }

    #[inline]
    fn as_written(&self, _: sealed::Sealed) -> Option<&str> {
        Some(self)
    }
}

/// A string is its own text.
impl CacheKey for Cow<'_, str> {
    fn write_key(&self, out: &mut KeyWriter) {
        out.text(self);
    }

    #[inline]
    fn as_written(&self, _: sealed::Sealed) -> Option<&str> {
        Some(self)
    }
}

/// Writes the key that it points to.
impl<T: CacheKey + ?Sized> CacheKey for &T {
    fn write_key(&self, out: &mut KeyWriter) {
        (**self).write_key(out);
    }

    #[inline]
    fn as_written(&self, sealed: sealed::Sealed) -> Option<&str> {
        (**self).as_written(sealed)
    }
}

/// Writes the key that it points to.
impl<T: CacheKey + ?Sized> CacheKey for Box<T> {
    fn write_key(&self, out: &mut KeyWriter) {
        (**self).write_key(out);
    }

    #[inline]
    fn as_written(&self, sealed: sealed::Sealed) -> Option<&str> {
        (**self).as_written(sealed)
    }
}

/// Writes the key that it points to.
impl<T: CacheKey + ?Sized> CacheKey for Arc<T> {
    fn write_key(&self, out: &mut KeyWriter) {
        (**self).write_key(out);
    }

    #[inline]
    fn as_written(&self, sealed: sealed::Sealed) -> Option<&str> {
        (**self).as_written(sealed)
    }
}

/// The text as `Display` writes it.
impl CacheKey for char {
    fn write_key(&self, out: &mut KeyWriter) {
        // An overflow is remembered by the writer.
        let _ = write!(out, "{self}");
    }
}

/// The text as `Display` writes it.
impl CacheKey for bool {
    fn write_key(&self, out: &mut KeyWriter) {
        // An overflow is remembered by the writer.
        let _ = write!(out, "{self}");
    }
}

/// The text as `Display` writes it.
impl CacheKey for IpAddr {
    fn write_key(&self, out: &mut KeyWriter) {
        // An overflow is remembered by the writer.
        let _ = write!(out, "{self}");
    }
}

/// The text as `Display` writes it.
impl CacheKey for Ipv4Addr {
    fn write_key(&self, out: &mut KeyWriter) {
        // An overflow is remembered by the writer.
        let _ = write!(out, "{self}");
    }
}

/// The text as `Display` writes it.
impl CacheKey for Ipv6Addr {
    fn write_key(&self, out: &mut KeyWriter) {
        // An overflow is remembered by the writer.
        let _ = write!(out, "{self}");
    }
}

/// The text as `Display` writes it; `Display` itself would take an eighth more instructions for a hit.
macro_rules! integer {
    ($($type:ty),*) => {$(
        impl CacheKey for $type {
            #[inline]
            fn write_key(&self, out: &mut KeyWriter) {
                // Digits need no escaping.
                out.push(itoa::Buffer::new().format(*self));
            }
        }

        /// The text of the integer.
        impl CacheKey for NonZero<$type> {
            fn write_key(&self, out: &mut KeyWriter) {
                self.get().write_key(out);
            }
        }
    )*};
}

integer!(i8, i16, i32, i64, i128, isize);
integer!(u8, u16, u32, u64, u128, usize);

/// 36 characters, in lower case, with hyphens.
#[cfg(feature = "uuid")]
impl CacheKey for uuid::Uuid {
    fn write_key(&self, out: &mut KeyWriter) {
        let mut text = uuid::Uuid::encode_buffer();
        // Digits, letters and hyphens need no escaping.
        out.push(self.hyphenated().encode_lower(&mut text));
    }
}

/// `none`, or `some` and the key as two parts.
impl<T: CacheKey> CacheKey for Option<T> {
    fn write_key(&self, out: &mut KeyWriter) {
        match self {
            None => out.part("none"),
            Some(key) => {
                out.part("some");
                out.part(key);
            }
        }
    }
}

/// The length, then the elements as parts.
// The length is there so that a slice or `Vec` can become a key and write the same: an array is `Borrow` of a slice.
impl<T: CacheKey, const N: usize> CacheKey for [T; N] {
    fn write_key(&self, out: &mut KeyWriter) {
        out.part(&N);
        for key in self {
            out.part(key);
        }
    }
}

/// Writes nothing.
impl CacheKey for () {
    fn write_key(&self, _: &mut KeyWriter) {}
}

/// A tuple writes its fields as parts.
macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<$($name: CacheKey),*> CacheKey for ($($name,)*) {
            #[allow(non_snake_case)]
            fn write_key(&self, out: &mut KeyWriter) {
                let ($($name,)*) = self;
                $(out.part($name);)*
            }
        }
    )*};
}

tuples!((A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H));

#[cfg(test)]
mod tests {
    use super::*;

    /// Written, also where it need not be.
    fn text<K: CacheKey + ?Sized>(key: &K) -> String {
        let mut out = KeyWriter::new();
        key.write_key(&mut out);
        assert!(!out.overflow);
        assert_eq!(KeyWriter::new().write(key).unwrap(), &*out.text);
        out.text.to_string()
    }

    #[test]
    fn a_key_that_is_its_own_text_is_not_copied() {
        fn is_borrowed<K: CacheKey + ?Sized>(key: &K) -> bool {
            assert!(!text(key).is_empty());
            key.as_written(sealed::Sealed).is_some()
        }
        assert!(is_borrowed("a:b"));
        assert!(is_borrowed(&&String::from("a:b")));
        assert!(is_borrowed(&Cow::Borrowed("a:b")));
        assert!(is_borrowed(&Arc::<str>::from("a:b")));
        assert!(is_borrowed(&Box::new("a:b")));
        assert!(!is_borrowed(&("a:b",)));
        assert!(!is_borrowed(&1) && !is_borrowed(&'a') && !is_borrowed(&true));
    }

    #[test]
    fn a_lone_key_is_written_as_it_is() {
        assert_eq!(text("a:b\\c"), "a:b\\c");
        assert_eq!(text(&':'), ":");
        assert_eq!(text(&true), "true");
        assert_eq!(text(&i128::MIN), i128::MIN.to_string());
    }

    #[test]
    fn each_level_escapes_once_more() {
        assert_eq!(text(&(":",)), r"\:");
        assert_eq!(text(&((":", "\\"),)), r"\\\:\:\\\\");
        assert_eq!(text(&(((":",),),)), r"\\\\\\\:");
    }

    #[test]
    fn parts_count_for_their_own_compound_only() {
        assert_eq!(text(&((1, 2), 3, (4, 5))), r"1\:2:3:4\:5");
        assert_eq!(text(&("", "", ("", ""))), r"::\:");
    }

    #[test]
    fn a_key_that_fits_exactly_is_taken() {
        assert_eq!(text(&"x".repeat(1024)).len(), 1024);
        assert_eq!(
            KeyWriter::new()
                .write(&"x".repeat(1025))
                .unwrap_err()
                .to_string(),
            "the key is longer than 1024 bytes"
        );
    }

    #[test]
    fn nothing_is_taken_after_an_overflow() {
        let mut out = KeyWriter::new();
        out.text(&"x".repeat(1020));
        out.text("\u{1f600}\u{1f600}");
        out.text("y");
        assert!(out.overflow);
        assert!(write!(out, "z").is_err());
        assert_eq!(out.text.len(), 1020);
    }

    struct Nest(u64);

    impl CacheKey for Nest {
        fn write_key(&self, out: &mut KeyWriter) {
            if let Some(less) = self.0.checked_sub(1) {
                out.part(&Nest(less));
                out.part(&Nest(less));
            }
        }
    }

    #[test]
    fn deep_nesting_ends_in_overflow() {
        assert_eq!(text(&Nest(3)), r"\\\:\:\\\::\\\:\:\\\:");
        assert_eq!(
            KeyWriter::new().write(&Nest(u64::MAX)).unwrap_err(),
            KeyTooLong
        );
    }
}
