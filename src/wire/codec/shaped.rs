//! The bytes of a format without names, after the shape of their value.

use std::any::TypeId;
use std::error::Error;
use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shape_serializer::{self, ShapeSerializer};
use super::{Category, Codec, CodecError, Result};

/// How many bytes a shape takes before a value.
const LENGTH: usize = 8;

/// Appends the shape of a value and its bytes, which `write` appends.
#[inline]
pub(super) fn encode<T: Serialize + ?Sized, E: Into<Box<dyn Error + Send + Sync>>>(
    value: &T,
    out: &mut Vec<u8>,
    write: impl FnOnce(ShapeSerializer<'_, &T>, &mut Vec<u8>) -> Result<(), E>,
) -> Result<()> {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    let shape = shape_serializer::serialize(value, |value| write(value, out))?;
    if let Some(before) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *before = shape.to_bytes();
    }
    Ok(())
}

/// Splits the bytes of a value off its shape.
#[inline]
pub(super) fn split(bytes: &[u8]) -> Result<([u8; LENGTH], &[u8])> {
    match bytes.split_first_chunk() {
        Some((shape, rest)) => Ok((*shape, rest)),
        None => Err(Category::Malformed.into()),
    }
}

/// A codec that [encodes](encode) a value after its shape.
pub(crate) trait Shaped: Codec {
    /// Reads a value that has been [split](split) off its shape.
    fn read<T: DeserializeOwned + Send>(bytes: &[u8]) -> Result<T>;

    /// Reads a value after its shape, and refuses a value whose type here gives it another shape than its writer's type
    /// did. `value_type` tells the type from others.
    #[inline]
    fn decode_shaped<T: Serialize + DeserializeOwned + Send>(
        &self,
        value_type: impl Hash,
        bytes: &[u8],
    ) -> Result<T> {
        let (shape, rest) = split(bytes)?;
        let value = Self::read(rest).map_err(another_shape)?;
        let known = CheckedShape::of(value_type, shape);
        if !known.is_noted() {
            check(shape, |again| self.encode(&value, again))?;
            known.note();
        }
        Ok(value)
    }
}

/// Checks that bytes which a codec has just encoded are read back, unless bytes of the type with this shape were before.
pub(super) fn read_back<C: Shaped, T: Serialize + DeserializeOwned + Send + 'static>(
    codec: &C,
    bytes: &[u8],
) -> Result<()> {
    let (shape, rest) = split(bytes)?;
    // Apart from what was read: that one is not compared by its length.
    let known = CheckedShape::of((TypeId::of::<T>(), C::ID), shape);
    if known.is_noted() {
        return Ok(());
    }
    let again = C::read::<T>(rest).and_then(|read| {
        let mut again = Vec::with_capacity(bytes.len());
        codec.encode(&read, &mut again).map(|()| again)
    });
    let again = again.map_err(|error| error.of_reading_back(Category::NotReadBack))?;
    // A field that is written and not read, or the other way round, shifts those that follow, perhaps to a value of
    // that shape. The bytes may differ, as the entries of a map have no order.
    if again.len() != bytes.len() || !again.starts_with(&shape) {
        return Err(Category::NotReadBack.into());
    }
    known.note();
    Ok(())
}

/// Compares a shape with the shape that a value is encoded with.
#[cold]
#[inline(never)]
fn check(shape: [u8; LENGTH], encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut again = Vec::new();
    encode(&mut again)?;
    if !again.starts_with(&shape) {
        return Err(Category::AnotherShape.into());
    }
    Ok(())
}

/// The bytes are as they were written, or the checksum around them would not match. If they do not fit the type, they
/// are of another one.
fn another_shape(error: CodecError) -> CodecError {
    match error.category() {
        Category::Malformed
        | Category::UnexpectedType
        | Category::ReadsByContent
        | Category::TrailingBytes => error.because(Category::AnotherShape),
        _ => error,
    }
}

/// Types with shapes that their values were found to have, so that few values are encoded to be checked.
///
/// One check of a type with a shape is enough. A type reads on by what it has read: the number of a variant, a `Some`,
/// whether an element follows. The shape has all of these, so the type reads all values of one shape alike.
static CHECKED_SHAPES: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];

/// A place in [`CHECKED_SHAPES`], and the hash that is there if the shape is known.
struct CheckedShape {
    place: Option<&'static AtomicU64>,
    hash: u64,
}

impl CheckedShape {
    #[inline]
    fn of(value_type: impl Hash, shape: [u8; LENGTH]) -> Self {
        // Never the zero of an empty place.
        let hash = FixedState::default().hash_one((value_type, u64::from_be_bytes(shape))) | 1;
        // The upper bits number the places.
        let place = usize::try_from(hash >> 52).unwrap_or_default();
        Self {
            place: CHECKED_SHAPES.get(place),
            hash,
        }
    }

    // Relaxed: the number is all there is.
    #[inline]
    fn is_noted(&self) -> bool {
        (self.place).is_some_and(|place| place.load(Ordering::Relaxed) == self.hash)
    }

    fn note(&self) {
        if let Some(place) = self.place {
            place.store(self.hash, Ordering::Relaxed);
        }
    }
}
