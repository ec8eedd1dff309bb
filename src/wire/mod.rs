//! The formats of bytes in Redis. No network and no clock: codecs keep one table of the
//! process (`shaped`), and read deep values on a thread of their own (`bounded`).
//!
//! A fleet runs several releases of this crate at once, so a layout in here never changes: a new one
//! gets a new format number, and an old reader treats it as a miss.

#[cfg(feature = "json")]
pub(crate) mod change_event;
pub(crate) mod codec;
pub(crate) mod envelope;
pub(crate) mod message;
