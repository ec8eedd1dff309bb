//! Names a write, so that any instance can answer with nothing older.

use std::fmt;
use std::str::FromStr;

use crate::vocabulary::Version;

/// The text begins with this: another form of it would have another number.
const FORM: &str = "1.";

/// Names a write that L2 has accepted, for [`Cache::at_least`](crate::Cache::at_least): look-ups on any instance that
/// are given it do not answer with an older value.
///
/// A service hands it to the user who caused the write, in a cookie or a header, and gets it back with the next
/// request, which may reach another instance. The text has at most 40 bytes, all of which may stand in a cookie. It
/// says how often something was written in the namespace, and nothing else. It needs no signature: the effect of a
/// token that was made up is described at [`Cache::at_least`](crate::Cache::at_least).
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::Token;
///
/// let names: larder::Cache<u64, String> = larder::Cache::builder("docs:names").build()?;
/// let token = names.invalidate(&7).await?;
/// let cookie = format!("seen={token}");
///
/// let text = cookie.strip_prefix("seen=").ok_or("it was set")?;
/// assert_eq!(text.parse::<Token>()?, token);
/// assert!("no token".parse::<Token>().is_err());
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Zero is that of no write.
    pub(crate) epoch: u64,
    pub(crate) ver: u64,
}

impl Token {
    /// One that only a look-up of L2 can meet; not an instance that does not know the epoch yet, either.
    const UNPROVABLE: Self = Self {
        epoch: 0,
        ver: u64::MAX,
    };

    /// Of two writes, in whatever order.
    pub(crate) fn and(self, other: Self) -> Self {
        // Within an epoch versions are ordered: an instance that has the later write has the earlier one.
        if self.epoch == other.epoch {
            let ver = self.ver.max(other.ver);
            return Self { ver, ..self };
        }
        // Between them the lane was cleared or lost, and which of them came first does not show.
        Self::UNPROVABLE
    }
}

impl From<Version> for Token {
    fn from(Version { epoch, ver }: Version) -> Self {
        Self { epoch, ver }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, ver } = self;
        write!(f, "{FORM}{epoch:x}.{ver:x}")
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    /// Accepts exactly the texts that `Display` writes.
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let parse = || {
            let (epoch, ver) = text.strip_prefix(FORM)?.split_once('.')?;
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            let (epoch, ver) = (number(epoch)?, number(ver)?);
            Some(Self { epoch, ver })
        };
        // Signs, capitals and leading zeros are none of ours.
        let ours = parse().filter(|token| token.to_string() == text);
        ours.ok_or(ParseTokenError(()))
    }
}

/// A text is not that of a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the text of a token: go on without one")]
pub struct ParseTokenError(());
