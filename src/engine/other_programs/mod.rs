//! Other programs, which use the same source and no larder: their messages, and changes that they are told of.
//!
//! - [`listen`]: invalidations that other programs publish
//! - [`publish`]: changes of this instance, for other programs

pub(crate) mod listen;
pub(crate) mod publish;
