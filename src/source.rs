//! Which level answered a look-up.

/// The level that answered a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The memory of this process.
    L1,
    /// The store that all instances share.
    L2,
    /// The loader, called by this instance.
    Loader,
}
