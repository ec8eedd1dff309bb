//! Items for the other packages of this repository, and for no other crate: each release may change them. So these
//! packages depend on the very version of this one.

pub use crate::error::OfOneCaller;
pub use crate::util::lock::lock;
pub use crate::util::random::seed;
pub use crate::vocabulary::{Invariant, downcast};
