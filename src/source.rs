//! Who answered.

/// The level that answered a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// This process's memory.
    L1,
    /// The store that all instances share.
    L2,
    /// The loader, run by this instance.
    Loader,
}
