//! The errors of a store. None of them shows a URL or a password.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why L2 did not do what it was asked. Cheap to clone; never shows a URL or a password.
#[derive(Clone)]
pub struct L2Error {
    kind: Kind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Unreachable,
    TimedOut(Duration),
    Refused,
    Unexpected(&'static str),
    Closed,
    BadUrl(&'static str),
    Pool(String),
}

impl L2Error {
    /// The store cannot be reached, or the connection broke.
    pub fn unreachable(source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            kind: Kind::Unreachable,
            source: Some(Arc::new(source)),
        }
    }

    /// The store did not answer within this time.
    #[must_use]
    pub fn timed_out(after: Duration) -> Self {
        Self {
            kind: Kind::TimedOut(after),
            source: None,
        }
    }

    /// The store answered with an error.
    pub fn refused(source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            kind: Kind::Refused,
            source: Some(Arc::new(source)),
        }
    }

    /// The store's answer cannot be used: `what` says why.
    #[must_use]
    pub fn unexpected(what: &'static str) -> Self {
        Self {
            kind: Kind::Unexpected(what),
            source: None,
        }
    }

    /// The connection or the cache is closed.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            kind: Kind::Closed,
            source: None,
        }
    }

    /// `what` must not show any part of the URL.
    pub(crate) fn bad_url(what: &'static str) -> Self {
        Self {
            kind: Kind::BadUrl(what),
            source: None,
        }
    }

    pub(crate) fn pool(error: &impl Error) -> Self {
        Self {
            kind: Kind::Pool(error.to_string()),
            source: None,
        }
    }

    /// Whether the URL of the store cannot be used.
    #[must_use]
    pub fn is_bad_url(&self) -> bool {
        matches!(self.kind, Kind::BadUrl(_))
    }

    /// Whether the store could not be reached, or the connection broke. A request that had been sent may have been
    /// executed.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Closed)
    }

    /// Whether the store did not answer in time. The request may have been executed, or may still be.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, Kind::TimedOut(_))
    }

    /// Whether the store answered, with an error or with something that cannot be used.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused | Kind::Unexpected(_))
    }
}

impl fmt::Display for L2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unreachable => f.write_str("L2 cannot be reached"),
            Kind::TimedOut(after) => write!(f, "L2 did not answer within {after:?}"),
            Kind::Refused => f.write_str("L2 refused the request"),
            Kind::Unexpected(what) => write!(f, "L2 cannot be used: {what}"),
            Kind::Closed => f.write_str("the connection to L2 is closed"),
            Kind::BadUrl(what) => write!(
                f,
                "the Redis URL cannot be used ({what}); give one like redis://user:password@host:6379/0"
            ),
            Kind::Pool(what) => write!(f, "the connection pool could not be built: {what}"),
        }
    }
}

impl fmt::Debug for L2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L2Error")
            .field("kind", &self.kind)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for L2Error {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
