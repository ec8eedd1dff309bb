//! The ids of formats, which stored values begin with. An id never changes its meaning.

pub(super) const BINCODE: u8 = 1;
pub(super) const JSON: u8 = 2;
pub(super) const POSTCARD: u8 = 3;
pub(super) const MESSAGEPACK: u8 = 4;
pub(super) const COMPRESSED: u8 = 5;
pub(super) const ENCRYPTED: u8 = 6;
/// Lower ids are of this crate, and this and higher ids of users' own codecs.
pub(super) const FIRST_OWN: u8 = 128;
