//! The bytes of compressed values.
//!
//! ```text
//! 0  id of the codec that encoded the value u8
//! 1  how many bytes it encoded u32
//! 5  these bytes as a block of LZ4
//! ```

use lz4_flex::block;

use super::{Category, Result, check_size};

const HEADER: usize = 5;

/// Compresses the bytes of `out` from `start` on, which the codec with this id encoded. Leaves it as it is and returns
/// false if that would not make it smaller.
pub(super) fn compress(id: u8, out: &mut Vec<u8>, start: usize) -> bool {
    let plain = out.get(start..).unwrap_or_default();
    let Ok(size) = u32::try_from(plain.len()) else {
        return false;
    };
    let block = block::compress(plain);
    // A value must not take more room than without this layer.
    if block.len() + HEADER >= plain.len() {
        return false;
    }
    out.truncate(start);
    out.push(id);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&block);
    true
}

/// The id of the codec, and the bytes that it encoded.
///
/// # Errors
///
/// If they would be more than `max`; no memory is taken for them then. Or if the bytes were not compressed by
/// [`compress`].
pub(super) fn decompress(bytes: &[u8], max: usize) -> Result<(u8, Vec<u8>)> {
    let Some((&[id, a, b, c, d], block)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(Category::Malformed.into());
    };
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    // Before any memory is taken: the size is a claim of the bytes.
    check_size(size, max)?;
    match block::decompress(block, size) {
        // A block that ends early is damaged, although it decompresses.
        Ok(plain) if plain.len() == size => Ok((id, plain)),
        _ => Err(Category::Malformed.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let mut out = plain.to_vec();
        assert!(compress(9, &mut out, 0));
        out
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let plain = b"text".repeat(1_000);
        let bytes = compressed(&plain);
        assert!(bytes.len() < 100);
        assert_eq!(decompress(&bytes, MAX).unwrap(), (9, plain));
    }

    #[test]
    fn what_comes_before_stays() {
        let mut out = [b"head", &b"text".repeat(100)[..]].concat();
        assert!(compress(9, &mut out, 4));
        let (head, bytes) = out.split_at(4);
        assert_eq!(head, b"head");
        assert_eq!(decompress(bytes, MAX).unwrap(), (9, b"text".repeat(100)));
    }

    /// The layout is shared with other releases: this test fails when it drifts.
    #[test]
    fn the_layout_is_frozen() {
        assert_eq!(super::super::ids::COMPRESSED, 5);
        // Four literals and the eight bytes from four before on, then five literals.
        let bytes = b"\x09\0\0\0\x11\x44text\x04\0\x50 also";
        assert_eq!(
            decompress(bytes, MAX).unwrap(),
            (9, b"texttexttext also".to_vec())
        );
    }

    #[test]
    fn what_would_not_be_smaller_is_left_alone() {
        for plain in [&b""[..], b"a", b"abcdefghijklmnopqrstuvwxyz"] {
            let mut out = plain.to_vec();
            assert!(!compress(9, &mut out, 0));
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn what_says_that_it_is_larger_than_allowed_is_refused() {
        let bytes = compressed(&b"text".repeat(1_000));
        assert!(decompress(&bytes, 4_000).is_ok());
        let error = decompress(&bytes, 3_999).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it takes 4000 bytes, and at most 3999 bytes are allowed"
        );
    }

    #[test]
    fn another_size_than_it_says_is_refused() {
        let good = compressed(&b"text".repeat(1_000));
        for size in [0_u32, 1, 3_999, 4_001, 1 << 19] {
            let mut bad = good.clone();
            bad[1..5].copy_from_slice(&size.to_be_bytes());
            assert!(decompress(&bad, MAX).is_err(), "{size}");
        }
    }

    proptest! {
        #[test]
        fn anything_comes_back(part in prop::collection::vec(any::<u8>(), 8..3_000)) {
            let plain = part.repeat(8);
            prop_assert_eq!(decompress(&compressed(&plain), MAX).unwrap(), (9, plain));
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            // What they say of their size does not matter for how much comes.
            if let Ok((_, plain)) = decompress(&bytes, MAX) {
                prop_assert!(plain.len() <= MAX);
            }
            let bytes = [b"\x01\0\0\x01\0", &bytes[..]].concat();
            if let Ok((_, plain)) = decompress(&bytes, MAX) {
                prop_assert_eq!(plain.len(), 256);
            }
        }

        #[test]
        fn every_cut_is_refused(part in prop::collection::vec(any::<u8>(), 8..300)) {
            let bytes = compressed(&part.repeat(8));
            for end in 0..bytes.len() {
                prop_assert!(decompress(&bytes[..end], MAX).is_err());
            }
        }
    }
}
