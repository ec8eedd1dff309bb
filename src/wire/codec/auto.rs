//! The default: each value in the format that holds it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stack::{EncodedAs, encode_by};
use super::{
    BaseCodec, Bincode, Category, CodecError, CodecStack, MessagePack, Result, Unencrypted,
};

/// The default: each value by [`Bincode`] if that can hold it, and otherwise by [`MessagePack`].
///
/// bincode is small and fast, and cannot hold values of all types: see its [limits](Bincode). The format is chosen for
/// each value, and its id stands beside the value. The first value of a cache that takes the second way is logged at
/// INFO, with its field and why. A value that neither of them can hold is not stored.
///
/// Needs the features `bincode` and `messagepack`, which are on by default. Without the second, [`Bincode`] alone is the
/// default.
///
/// # Cost
///
/// A value that bincode holds costs what it costs with [`Bincode`]. Another one is tried with bincode each time, then
/// encoded with names, and [read back](super::Codec#values-that-are-not-stored).
#[derive(Debug, Clone, Copy, Default)]
pub struct Auto;

impl Unencrypted for Auto {}

impl CodecStack for Auto {
    type Base = Self;

    fn base(&self) -> &Self {
        self
    }
}

impl BaseCodec for Auto {
    type Codec = Bincode;

    fn codec(&self) -> &Bincode {
        &Bincode
    }

    fn encode_checked<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: &T,
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        let start = out.len();
        let refused = match encode_by(&Bincode, value, max, out) {
            Err(error) if error.exceeded().is_none() => error,
            done => return done,
        };
        out.truncate(start);
        match encode_by(&MessagePack, value, max, out) {
            Ok(written) => Ok(EncodedAs {
                refused: Some(refused),
                ..written
            }),
            Err(error) => Err(held_by_neither(&refused, error)),
        }
    }
}

#[cold]
fn held_by_neither(by_bincode: &CodecError, by_messagepack: CodecError) -> CodecError {
    match by_messagepack.category() {
        Category::ReadOtherwise => {
            let error = by_messagepack.in_field(by_bincode.field());
            error.because(Category::HeldByNeither)
        }
        // It says enough.
        _ => by_messagepack,
    }
}
