//! How the client's errors look to the crate.

use deadpool_redis::redis::{ErrorKind, RedisError};

use crate::l2::L2Error;

/// Keeps only a fixed description: the client's details can hold parts of the URL.
pub(super) fn bad_url(error: &RedisError) -> L2Error {
    L2Error::bad_url(match error.kind() {
        ErrorKind::InvalidClientConfig => {
            "it is malformed, or asks for something this build lacks, such as TLS"
        }
        ErrorKind::RESP3NotSupported => "it asks for an old protocol",
        _ => "the client refused it",
    })
}

/// How an error of the client looks to the crate.
pub(super) fn l2_error(error: RedisError) -> L2Error {
    if error.is_io_error() {
        L2Error::unreachable(error)
    } else {
        L2Error::refused(error)
    }
}
