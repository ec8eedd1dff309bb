//! The shape of a value: a hash of the names and kinds of its parts. bincode and postcard write neither, so a changed type
//! can read a wrong value from the bytes without an error. So both write the shape before the value, and a cache takes a
//! value of another shape for a miss.
//!
//! The shape has the names of fields and variants in their order, the numbers of variants, the kinds of numbers, texts
//! and byte strings, each `Some` and `None`, the lengths of tuples and arrays, and whether a collection is empty. Names
//! of types are not part of it, and a newtype, a `Box` or a `Cow` has the shape of its content: types can be renamed and
//! moved.
//!
//! [`shape_serializer`](super::shape_serializer) finds the shape while it serializes a value.

use std::hash::BuildHasher;
use std::mem;

use foldhash::fast::FixedState;

/// The shape of a value or of a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape(u64);

macro_rules! shapes {
    ($($name:ident = $number:literal)*) => {$(
        pub(super) const $name: Self = Self(mix(START, $number));
    )*};
}

impl Shape {
    /// The shape of a part that is missing.
    pub(super) const ABSENT: Self = Self(0);

    shapes! {
        UNIT = 1
        BOOL = 2
        I8 = 3
        I16 = 4
        I32 = 5
        I64 = 6
        I128 = 7
        U8 = 8
        U16 = 9
        U32 = 10
        U64 = 11
        U128 = 12
        F32 = 13
        F64 = 14
        CHAR = 15
        TEXT = 16
        BYTES = 17
        NONE = 18
    }

    /// Of a value of this shape, together with the value: a hash of its bytes.
    pub(super) fn of(self, value: &[u8]) -> Self {
        Self(mix(self.0, FixedState::default().hash_one(value)))
    }

    /// Of a `Some` with a value of this shape.
    #[inline]
    pub(super) const fn some(self) -> Self {
        Self(mix(self.0, SOME))
    }

    /// The shape of a variant whose content has this shape.
    #[inline]
    pub(super) const fn in_variant(self, index: u32, name: &str) -> Self {
        Self(mix(mix(self.0, VARIANT + index as u64), hash_of(name)))
    }

    /// The shape of an entry of a map whose key has this shape.
    #[inline]
    pub(super) const fn with_value(self, value: Self) -> Self {
        Self(mix(self.0, value.0))
    }

    #[cfg(any(feature = "bincode", feature = "postcard"))]
    pub(super) const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

const START: u64 = 0x9e37_79b9_7f4a_7c15;
const SOME: u64 = 19;
const SEQUENCE: u64 = 20;
const MAP: u64 = 21;
const PARTS: u64 = 22;
/// A variant of an enum. Greater numbers are variants, too.
const VARIANT: u64 = 23;

/// The parts of a tuple, an array or a struct, in their order, with the names that they have in a struct.
#[derive(Clone, Copy)]
pub(super) struct Parts(u64);

impl Parts {
    pub(super) const NONE: Self = Self(START);

    #[inline]
    pub(super) const fn and(self, part: Shape) -> Self {
        // A polynomial, whose factors are hashes already.
        Self(self.0.wrapping_mul(ODD_FACTOR).wrapping_add(part.0))
    }

    #[inline]
    pub(super) const fn and_named(self, name: &str, part: Shape) -> Self {
        // A sum of two hashes is as good as one.
        self.and(Shape(part.0.wrapping_add(hash_of(name))))
    }

    #[inline]
    pub(super) const fn whole(self) -> Shape {
        Shape(mix(self.0, PARTS))
    }
}

/// The shapes that the elements of a sequence or the entries of a map have, each of them once and in no order: the
/// elements of a `HashSet` have another order each time.
pub(super) struct Elements {
    /// Most collections have elements of one shape.
    last: Shape,
    others: Option<Box<EarlierShapes>>,
}

/// A sum of the hashes of elements with their values, in no order.
#[derive(Default)]
pub(super) struct UnorderedHash(u64);

impl UnorderedHash {
    pub(super) fn add(&mut self, element: Shape) {
        self.0 = self.0.wrapping_add(mix(element.0, START));
    }

    /// The shape of a collection with these elements; `shape` is its shape without them.
    pub(super) fn with(&self, shape: Shape) -> Shape {
        Shape(mix(shape.0, self.0))
    }
}

/// The shapes of the elements before.
struct EarlierShapes {
    shapes: Vec<Shape>,
    /// When there are so many, those that are there twice are removed.
    dedup_at: usize,
}

impl Elements {
    pub(super) const NONE: Self = Self {
        last: Shape::ABSENT,
        others: None,
    };

    #[inline]
    pub(super) fn add(&mut self, element: Shape) {
        if self.last != element {
            let last = mem::replace(&mut self.last, element);
            if last != Shape::ABSENT {
                EarlierShapes::add(&mut self.others, last);
            }
        }
    }

    #[inline]
    pub(super) fn sequence(self) -> Shape {
        self.whole(SEQUENCE)
    }

    #[inline]
    pub(super) fn map(self) -> Shape {
        self.whole(MAP)
    }

    #[inline]
    fn whole(self, kind: u64) -> Shape {
        match self.others {
            None => Shape(mix(self.last.0, kind)),
            Some(others) => others.whole(self.last, kind),
        }
    }
}

impl EarlierShapes {
    #[inline(never)]
    fn add(others: &mut Option<Box<Self>>, shape: Shape) {
        let others = others.get_or_insert_with(|| {
            Box::new(Self {
                shapes: Vec::new(),
                dedup_at: 64,
            })
        });
        others.shapes.push(shape);
        if others.shapes.len() >= others.dedup_at {
            others.remove_repeated();
            others.dedup_at = others.dedup_at.max(2 * others.shapes.len());
        }
    }

    fn remove_repeated(&mut self) {
        self.shapes.sort_unstable();
        self.shapes.dedup();
    }

    #[cold]
    #[inline(never)]
    fn whole(mut self, last: Shape, kind: u64) -> Shape {
        self.shapes.push(last);
        self.remove_repeated();
        let all = self.shapes.iter();
        Shape(mix(all.fold(START, |all, shape| mix(all, shape.0)), kind))
    }
}

/// An odd constant that spreads the bits of a product. Shapes are stored, so this number never changes.
const ODD_FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// Mixes by a product of 128 bits, both halves of which are used, as wyhash does.
#[inline]
const fn mix(hash: u64, with: u64) -> u64 {
    let product = (hash ^ with) as u128 * 0x8bb8_4b93_962e_acc9_u64 as u128;
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    (low ^ high).wrapping_add(with)
}

/// Of a name. Of one that is known at compile time, it is a constant in optimized code.
#[inline(always)]
#[expect(clippy::inline_always, reason = "in the caller, the name is known")]
const fn hash_of(name: &str) -> u64 {
    let mut hash = mix(START, name.len() as u64);
    let mut rest = name.as_bytes();
    while let Some((word, after)) = rest.split_first_chunk() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    let mut word = 0;
    while let Some((byte, after)) = rest.split_first() {
        word = word << 8 | *byte as u64;
        rest = after;
    }
    mix(hash, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(shapes: impl IntoIterator<Item = u64>) -> Elements {
        let mut elements = Elements::NONE;
        for shape in shapes {
            elements.add(Shape(shape));
        }
        elements
    }

    #[test]
    fn elements_have_no_order_and_count_once() {
        let of = |shapes: &[u64]| elements(shapes.iter().copied()).sequence();
        let both = of(&[7, 8]);
        for same in [&[8, 7][..], &[7, 8, 7], &[8, 8, 7, 7, 8]] {
            assert_eq!(of(same), both);
        }
        for other in [&[][..], &[7], &[8], &[7, 9], &[7, 8, 9]] {
            assert_ne!(of(other), both);
        }
        assert_ne!(elements([7, 8]).map(), both);
        let forward = elements(1..1_000).sequence();
        assert_eq!(elements((1..1_000).rev().chain(1..500)).sequence(), forward);
    }

    #[test]
    fn repeated_shapes_take_no_memory() {
        let elements = elements((0..100_000).map(|n| 1 + n % 3));
        assert!(elements.others.unwrap().shapes.capacity() <= 64);
    }
}
