//! The errors of a store. None of them shows a URL or a password.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Why L2 did not carry out a request, and for errors of Redis a remedy. Cheap to clone; never shows a URL or a
/// password, nor, in errors of [`RedisL2`](crate::RedisL2), keys and values.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct L2Error(Kind);

#[derive(Clone, Debug, thiserror::Error)]
enum Kind {
    #[error("L2 cannot be reached")]
    Unreachable(#[source] Arc<dyn Error + Send + Sync>),
    #[error("L2 cannot be reached")]
    Explained(#[source] Arc<dyn Error + Send + Sync>),
    #[error("L2 did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("L2 refused the request")]
    Refused(#[source] Arc<dyn Error + Send + Sync>),
    #[error("L2 cannot be used: {0}")]
    Unexpected(&'static str),
    #[error("L2 did not answer several times, and is not asked until it answers a probe")]
    Skipped,
    #[error("the connection to L2 is closed")]
    Closed,
    #[error("no TLS with L2: {0}")]
    Tls(&'static str, #[source] Arc<dyn Error + Send + Sync>),
    #[error("L2 cannot be used with this number of partitions: the namespace has {0}")]
    OtherPartitions(u16),
    #[error("{0}")]
    BadConfig(Arc<str>),
}

impl L2Error {
    /// The store cannot be reached, or the connection broke.
    pub fn unreachable(source: impl Error + Send + Sync + 'static) -> Self {
        Self(Kind::Unreachable(Arc::new(source)))
    }

    /// The store cannot be reached, and the source says why.
    pub(crate) fn explained(source: impl Error + Send + Sync + 'static) -> Self {
        Self(Kind::Explained(Arc::new(source)))
    }

    /// The store did not answer within this time.
    #[must_use]
    pub fn timed_out(after: Duration) -> Self {
        Self(Kind::TimedOut(after))
    }

    /// The store answered with an error.
    pub fn refused(source: impl Error + Send + Sync + 'static) -> Self {
        Self(Kind::Refused(Arc::new(source)))
    }

    /// The store's answer cannot be used: `what` says why.
    #[must_use]
    pub fn unexpected(what: &'static str) -> Self {
        Self(Kind::Unexpected(what))
    }

    /// The namespace has this number of partitions now, and the partition is not one of them: no step of it is carried out.
    #[must_use]
    pub fn other_partitions(partitions: u16) -> Self {
        Self(Kind::OtherPartitions(partitions))
    }

    /// The connection or the cache is closed.
    #[must_use]
    pub fn closed() -> Self {
        Self(Kind::Closed)
    }

    pub(crate) fn tls(what: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self(Kind::Tls(what, Arc::new(source)))
    }

    pub(crate) fn skipped() -> Self {
        Self(Kind::Skipped)
    }

    /// `what` must not show any part of a URL.
    pub(crate) fn bad_config(what: impl Into<Arc<str>>) -> Self {
        Self(Kind::BadConfig(what.into()))
    }

    /// Tells it from errors that have another cause. However a store does not answer, that is one cause.
    pub(crate) fn cause(&self) -> String {
        match &self.0 {
            Kind::Unreachable(_) | Kind::TimedOut(_) | Kind::Skipped | Kind::Closed => {
                "unreachable".to_owned()
            }
            Kind::Tls(what, _) => (*what).to_owned(),
            _ => (self.source()).map_or_else(|| self.to_string(), ToString::to_string),
        }
    }

    /// The number of partitions that the namespace has, if the partition of the request is not one of them.
    pub(crate) fn partitions(&self) -> Option<u16> {
        match self.0 {
            Kind::OtherPartitions(partitions) => Some(partitions),
            _ => None,
        }
    }

    /// Whether the request was not sent: the circuit breaker is open.
    pub(crate) fn is_skipped(&self) -> bool {
        matches!(self.0, Kind::Skipped)
    }

    /// Whether the store cannot work as it was set up: the URL is malformed, for instance, or TLS is not built in.
    #[must_use]
    pub fn is_bad_config(&self) -> bool {
        matches!(&self.0, Kind::BadConfig(_))
    }

    /// Whether the store could not be reached, TLS with it failed, or the connection broke. A request that had been
    /// sent may have been executed.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            &self.0,
            Kind::Unreachable(_)
                | Kind::Explained(_)
                | Kind::Tls(..)
                | Kind::Skipped
                | Kind::Closed
        )
    }

    /// Whether the store did not answer in time. The request may have been executed, or may still be.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(&self.0, Kind::TimedOut(_))
    }

    /// Whether the store answered, with an error or with something that cannot be used.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(
            &self.0,
            Kind::Refused(_) | Kind::Unexpected(_) | Kind::OtherPartitions(_)
        )
    }
}
