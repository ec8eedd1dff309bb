//! Items for the other packages of this repository, and for no other crate: each release may change them. So these
//! packages depend on the very version of this one.

use crate::error::{L2Error, WriteError};

pub use crate::error::OfOneCaller;
pub use crate::util::lock::lock;
pub use crate::util::random::seed;
pub use crate::util::retry_delays::retry_delays;
pub use crate::vocabulary::{Invariant, downcast};

/// The error of an invalidation whose task has ended with its runtime.
#[must_use]
pub fn stopped_invalidation() -> WriteError {
    WriteError::deferred(L2Error::closed())
}
