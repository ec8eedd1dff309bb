//! In place of `tls`, for builds without TLS.

use deadpool_redis::redis::{ConnectionAddr, RedisError};

use crate::l2::L2Error;

/// Why this build cannot use TLS, if it cannot.
pub(super) const MISSING: Option<&str> =
    Some("asks for TLS, which is not built in: enable the feature `tls` of larder");

pub(super) fn check(_host: &str, _addr: &ConnectionAddr) -> Result<(), L2Error> {
    let what = "TLS with Redis is not built in: enable the feature `tls` of larder";
    Err(L2Error::bad_config(what))
}

/// What a handshake that failed says, if the error is one.
pub(super) fn failure(_error: &RedisError) -> Option<&'static str> {
    None
}
