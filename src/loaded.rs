//! A value with TTLs and tags of its own, as a loader returns it or an insert stores it.
//!
//! [`MAX_TAGS`] is for code that makes the tags of a value from data.

use std::time::Duration;

use crate::error::Misuse;
use crate::key::{CacheKey, Key, KeyWriter};
use crate::vocabulary::{AnyValue, Value};
pub use crate::wire::envelope::MAX_TAGS;
use crate::wire::envelope::may_be_tags;

/// A value with TTLs and tags of its own. Loaders of [`get_or_load_with`](crate::Cache::get_or_load_with) return it,
/// and every call that stores a value takes it in place of the value: [`insert`](crate::Cache::insert),
/// [`insert_many`](crate::Cache::insert_many), [`insert_if`](crate::Cache::insert_if),
/// [`update`](crate::Cache::update), [`write_through`](crate::Cache::write_through),
/// [`refresh`](crate::Cache::refresh), [`warm`](crate::Cache::warm).
///
/// A plain value converts into a `Loaded` without options. Options that are not set come from the
/// [`Builder`](crate::Builder).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use larder::{Cache, Loaded};
///
/// struct Token { text: String, expires_in: Duration }
/// # async fn log_in() -> Result<Token, std::io::Error> {
/// #     Ok(Token { text: "8f2c".to_owned(), expires_in: Duration::from_secs(300) })
/// # }
///
/// let tokens: Cache<String, String> = Cache::builder("docs:token").build()?;
/// let token = tokens
///     .get_or_load_with("billing", |_| async {
///         let token = log_in().await?;
///         // It is not used in its last ten seconds.
///         let ttl = token.expires_in.saturating_sub(Duration::from_secs(10));
///         Ok::<_, std::io::Error>(Loaded::new(token.text).ttl(ttl))
///     })
///     .await?;
/// assert_eq!(*token, "8f2c");
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "a loader has to return it"]
pub struct Loaded<V> {
    /// `None`: the previous one.
    pub(crate) value: Option<V>,
    pub(crate) may_be_stored: bool,
    pub(crate) ttls: OwnTtls,
    /// `None` if no tags were set: then an unchanged value keeps its tags. Boxed, so that values without tags take
    /// no more room.
    pub(crate) tags: OwnTags,
}

/// The TTLs that were set for one entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnTtls {
    pub(crate) ttl: Option<Duration>,
    pub(crate) soft_ttl: Option<Duration>,
    pub(crate) l1_ttl: Option<Duration>,
}

/// The names of tags, sorted, each of them once; or why there cannot be such tags.
pub(crate) type TagNames = Result<Vec<Key>, Misuse>;

/// The tags that were set for one entry.
pub(crate) type OwnTags = Option<Box<TagNames>>;

/// Their names: none if none were set.
pub(crate) fn names(tags: OwnTags) -> TagNames {
    tags.map_or_else(|| Ok(Vec::new()), |tags| *tags)
}

/// The names of these tags and of more tags.
pub(crate) fn with_tags<T: CacheKey>(tags: OwnTags, more: impl IntoIterator<Item = T>) -> TagNames {
    let mut names = names(tags)?;
    for tag in more {
        let mut out = KeyWriter::new();
        let name = out.write(&tag).map_err(|_| Misuse::TagTooLong)?;
        names.push(name.into());
    }
    names.sort_unstable();
    names.dedup();
    if !may_be_tags(&names) {
        return Err(Misuse::TooManyTags);
    }
    Ok(names)
}

/// As [`Loaded::new`].
impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Self {
        Self::new(value)
    }
}

impl<V> Loaded<V> {
    /// This value, to be stored in both levels.
    pub fn new(value: V) -> Self {
        Self {
            value: Some(value),
            ..Self::unchanged()
        }
    }

    /// The value as the engine handles it.
    pub(crate) fn without_type(self) -> Loaded<AnyValue>
    where
        V: Value,
    {
        Loaded {
            value: self.value.map(AnyValue::new),
            may_be_stored: self.may_be_stored,
            ttls: self.ttls,
            tags: self.tags,
        }
    }

    /// The previous value, which the source has not changed, as by an HTTP status 304: its lifetime begins anew,
    /// with new TTLs.
    ///
    /// The value is neither encoded nor sent to L2 again, unless L2 has lost it. For a loader that was given a previous
    /// value; otherwise the load fails with an error that [is a misuse](crate::LoadError::is_misuse).
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Entry, Loaded};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Page { etag: String, body: String }
    /// # enum Answer { NotModified, Page(Page) }
    /// # async fn fetch(if_none_match: Option<&str>) -> Result<Answer, std::io::Error> {
    /// #     Ok(Answer::Page(Page { etag: "v1".to_owned(), body: "…".to_owned() }))
    /// # }
    ///
    /// let pages: Cache<String, Page> = Cache::builder("docs:page")
    ///     .soft_ttl(Duration::from_secs(60))
    ///     .build()?;
    /// let load = |previous: Option<Entry<Page>>| async move {
    ///     let etag = previous.as_ref().map(|page| page.etag.as_str());
    ///     Ok::<_, std::io::Error>(match fetch(etag).await? {
    ///         Answer::NotModified => Loaded::unchanged(),
    ///         Answer::Page(page) => Loaded::new(page),
    ///     })
    /// };
    /// let page = pages.get_or_load_with("/", load).await?;
    /// assert_eq!(page.body, "…");
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn unchanged() -> Self {
        Self {
            value: None,
            may_be_stored: true,
            ttls: OwnTtls::default(),
            tags: None,
        }
    }

    /// How long this value is valid, in both levels, instead of the TTL of [`ttl_of`](crate::Builder::ttl_of) or
    /// [`l2_ttl`](crate::Builder::l2_ttl).
    ///
    /// The [`jitter`](crate::Builder::jitter) only shortens it, so a token does not outlive its expiry. At most 100
    /// years; a longer one counts as that.
    ///
    /// A value with a TTL of zero is not stored. A load returns it as it returns a value with
    /// [`no_store`](Self::no_store), and [`Stats::unstorable_values`](crate::Stats::unstorable_values) counts it; a call
    /// that stores and loads nothing returns an error that [is a misuse](crate::WriteError::is_misuse).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttls.ttl = Some(ttl);
        self
    }

    /// The age from which this value is stale, instead of the builder's [`soft_ttl`](crate::Builder::soft_ttl).
    ///
    /// The jitter only shortens it. If it is not shorter than the value's TTL, the value is never stale.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded};
    ///
    /// let prices: Cache<String, u32> = Cache::builder("docs:prices").build()?;
    /// let price = Loaded::new(450).ttl(Duration::from_secs(600)).soft_ttl(Duration::from_secs(60));
    /// prices.insert("tea", price).await?;
    /// assert!(!prices.get("tea").await.ok_or("it is there")?.meta().is_stale());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn soft_ttl(mut self, ttl: Duration) -> Self {
        self.ttls.soft_ttl = Some(ttl);
        self
    }

    /// How long each L1 answers with this value at most. Zero: no L1 stores it, so that every look-up asks L2. Any
    /// other time does not bound memory, see [`Builder::l1_ttl`](crate::Builder::l1_ttl).
    ///
    /// It only shortens: the builder's [`l1_ttl`](crate::Builder::l1_ttl) and the value's TTL hold, too.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use larder::{Cache, Loaded, MemoryL2, Source};
    ///
    /// let stock: Cache<String, u32> = Cache::builder("docs:stock").l2(MemoryL2::new()).build()?;
    /// // A large value that is rarely asked for need not take room in each instance.
    /// stock.insert("tea", Loaded::new(7).l1_ttl(Duration::ZERO)).await?;
    /// assert_eq!(stock.get("tea").await.ok_or("L2 has it")?.meta().source(), Source::L2);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn l1_ttl(mut self, ttl: Duration) -> Self {
        self.ttls.l1_ttl = Some(ttl);
        self
    }

    /// Hands the value out to the callers that wait for this load, and stores it in neither level. If the loader
    /// was given a previous value, that is removed from both levels, in all instances.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Loaded};
    ///
    /// let carts: Cache<String, Vec<String>> = Cache::builder("docs:cart").build()?;
    /// let load = |_| async {
    ///     // Not worth keeping.
    ///     Ok::<_, std::io::Error>(Loaded::new(Vec::new()).no_store())
    /// };
    /// assert!(carts.get_or_load_with("alice", load).await?.is_empty());
    /// assert!(carts.get("alice").await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn no_store(mut self) -> Self {
        self.may_be_stored = false;
        self
    }

    /// Tags of this value, by which [`invalidate_tag`](crate::Cache::invalidate_tag) finds it: up to [`MAX_TAGS`], each
    /// of them written as a key is, see [`CacheKey`]: `("tenant", 7)` is the tag `tenant:7`. A second call adds tags.
    ///
    /// The value also has the tags that [`tags_of`](crate::Builder::tags_of) gives it, and no others: the tags of the
    /// value that it replaces are gone. But an [`unchanged`](Self::unchanged) value keeps its tags, unless this is
    /// called.
    ///
    /// A value with more tags, with a tag over [`MAX_KEY_BYTES`](crate::key::MAX_KEY_BYTES), or with tags of more than
    /// 64 KiB in all is not stored, as a value with a [`ttl`](Self::ttl) of zero is not.
    ///
    /// Cost: a hit in L1 compares two numbers more. A hit in L2 takes one more small request, unless this instance
    /// knows all its tags from other values; always where a call has waited for another instance's load. Redis spends
    /// about 1.5 µs for each tag of a value that is stored. A tag that values have takes about 180 bytes in Redis, which
    /// expire with the last of them; and in L1 about 100 bytes and the name, and 70 bytes for each value.
    ///
    /// ```
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use larder::{Cache, Loaded};
    ///
    /// let users: Cache<u64, String> = Cache::builder("docs:tags").build()?;
    /// let load = |_| async { Ok::<_, std::io::Error>(Loaded::new("Ann".to_owned()).tags(["tenant:7"])) };
    /// users.get_or_load_with(&1, load).await?;
    /// users.insert(&2, Loaded::new("Bob".to_owned()).tags([("tenant", 7)])).await?;
    ///
    /// users.invalidate_tag("tenant:7").await?;
    /// assert!(users.get(&1).await.is_none());
    /// assert!(users.get(&2).await.is_none());
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
    /// ```
    pub fn tags<T: CacheKey>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags = Some(Box::new(with_tags(self.tags, tags)));
        self
    }
}
