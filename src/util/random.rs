//! Random numbers of the operating system: no two instances draw the same, not even in clones of one virtual machine.

/// A random number from 1 to 2⁵² - 1, which Lua can represent. It names an instance, an epoch, a lease. Costs a system
/// call.
pub(crate) fn random() -> u64 {
    (seed() >> 12).max(1)
}

/// 64 random bits.
pub(crate) fn seed() -> u64 {
    // The system has some on every platform that std supports, once it has booted.
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}
