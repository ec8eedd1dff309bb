//! How the client's errors look to the crate.

use deadpool_redis::redis::RedisError;

use super::tls;
use crate::l2::L2Error;

/// How an error of the client looks to the crate.
pub(super) fn l2_error(error: RedisError) -> L2Error {
    if let Some(what) = tls::failure(&error) {
        L2Error::tls(what, error)
    } else if error.is_io_error() {
        L2Error::unreachable(error)
    } else {
        L2Error::refused(error)
    }
}
