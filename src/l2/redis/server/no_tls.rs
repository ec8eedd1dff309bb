//! In place of `tls`, for builds without TLS.

use deadpool_redis::redis::{ConnectionAddr, RedisError};

use crate::l2::L2Error;

const WHY: &str =
    "TLS with Redis is not built in: enable the feature `tls-ring` or `tls` of larder";

/// Why this build cannot use TLS, if it cannot.
pub(super) const MISSING: Option<&str> = Some(WHY);

/// Refuses an address with TLS.
pub(super) fn check(addr: &ConnectionAddr) -> Result<(), L2Error> {
    match addr {
        ConnectionAddr::TcpTls { .. } => Err(L2Error::bad_config(WHY)),
        _ => Ok(()),
    }
}

/// Why a handshake has failed, if the error is one.
pub(crate) fn failure(_error: &RedisError) -> Option<&'static str> {
    None
}
