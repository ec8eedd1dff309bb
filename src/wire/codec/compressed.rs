//! The layer that compresses.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stack::{EncodedAs, WithContext};
use super::{BaseCodec, CodecStack, Result, Unencrypted, ids, lz4};

/// Compresses the encoded bytes of larger values, by LZ4.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::codec::{Auto, Compressed};
/// use larder::{Cache, MemoryL2};
///
/// let pages: Cache<String, String> = Cache::builder("docs:page")
///     .l2(MemoryL2::new())
///     .codec(Compressed::new(Auto).threshold(4096))
///     .build()?;
/// let page = "<li>tea</li>".repeat(1000);
/// pages.insert("/", page.clone()).await?;
/// assert_eq!(*pages.get("/").await.ok_or("it was stored")?, page);
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// A value is stored as the codec encodes it if that takes fewer bytes than the [`threshold`](Self::threshold), or if
/// compressed it would take no fewer. So no value takes more room than without this layer.
///
/// LZ4 is the choice for speed: an L2 hit is decompressed by the task that asked for it. zstd would make values smaller
/// yet, but takes longer, and its crate is built from C; the one used here, `lz4_flex`, is Rust without `unsafe`.
///
/// # With encryption
///
/// The size of a compressed value tells how alike its parts are, also inside of [`Encrypted`](super::Encrypted): see
/// its limits. Do not compress values that hold a secret beside parts that others choose.
///
/// # Limits
///
/// [`max_value_size`](crate::Builder::max_value_size) bounds the value before it is compressed: a larger one is not
/// stored, however small it would become. Bytes that say that they are larger when decompressed are a miss, and no
/// memory is taken for them.
///
/// # Moving to it
///
/// Every instance that is built with the feature `compression` reads compressed values, whichever codec it writes with.
/// So a fleet moves without a flush: build all instances with the feature first, then change the codec.
///
/// # Cost
///
/// To encode a value from the threshold on takes a table of 8 KiB, or 16 KiB from 64 KiB on, and room for up to 1.1
/// times its size; to decode it, room for its size. A smaller value costs nothing more than with its codec alone.
#[derive(Debug, Clone, Copy)]
pub struct Compressed<C> {
    codec: C,
    threshold: usize,
}

impl<C: BaseCodec> Compressed<C> {
    /// Compresses the bytes of this codec. It cannot be an `Encrypted` one, as encrypted bytes cannot be compressed;
    /// `Encrypted<Compressed<C>>` does it in this order.
    pub const fn new(codec: C) -> Self {
        Self {
            codec,
            threshold: 1024,
        }
    }

    /// How many bytes a value must take, as the codec encodes it, to be compressed. Default: 1 KiB.
    #[must_use]
    pub const fn threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }
}

impl<C: BaseCodec> Unencrypted for Compressed<C> {}

impl<C: BaseCodec> CodecStack for Compressed<C> {
    type Base = C;

    fn base(&self) -> &C {
        &self.codec
    }

    fn seal<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: WithContext<'_, T>,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        let start = out.len();
        // The codec checks the limit, so the limit is for the value before it is compressed.
        let mut written = self.codec.seal(value, out)?;
        let is_large = out.len().saturating_sub(start) >= self.threshold;
        if is_large && lz4::compress(written.id, out, start) {
            written.id = ids::COMPRESSED;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::error::Category;
    use crate::wire::codec::stack::read_by_any;
    use crate::wire::codec::{Bincode, Codec, CodecError, ValueContext};

    const MAX: usize = 1 << 20;
    const CONTEXT: ValueContext<'static> = ValueContext {
        namespace: "ns",
        key: "k",
        type_tag: 7,
        tags: &[],
        max: MAX,
    };

    fn within(max: usize) -> ValueContext<'static> {
        ValueContext { max, ..CONTEXT }
    }

    fn write(codec: &impl Unencrypted, text: &str) -> (u8, Vec<u8>) {
        let mut out = Vec::new();
        let text = (&text.to_owned(), &CONTEXT);
        (codec.seal(text, &mut out).unwrap().id, out)
    }

    fn read(
        codec: &impl Unencrypted,
        id: u8,
        bytes: &[u8],
        max: usize,
    ) -> Result<String, CodecError> {
        codec.open(id, (bytes, &within(max)), read_by_any)
    }

    #[test]
    fn values_from_the_threshold_on_are_compressed() {
        // Eight bytes are its shape, and one says how long the text is, three from 251 bytes on.
        let codec = Compressed::new(Bincode).threshold(109);
        assert_eq!(write(&codec, &"a".repeat(99)).0, Bincode::ID);
        let (id, bytes) = write(&codec, &"a".repeat(100));
        assert_eq!((id, bytes.len() < 30), (ids::COMPRESSED, true));
        let by_default = Compressed::new(Bincode);
        assert_eq!(write(&by_default, &"a".repeat(1012)).0, Bincode::ID);
        assert_eq!(write(&by_default, &"a".repeat(1013)).0, ids::COMPRESSED);
    }

    #[test]
    fn all_of_it_is_read_with_and_without_this_layer() {
        let compressed = Compressed::new(Bincode).threshold(0);
        for text in [String::new(), "short".into(), "long".repeat(1_000)] {
            let (id, bytes) = write(&compressed, &text);
            assert_eq!(read(&compressed, id, &bytes, MAX).unwrap(), text);
            assert_eq!(read(&Bincode, id, &bytes, MAX).unwrap(), text);
            let (id, bytes) = write(&Bincode, &text);
            assert_eq!(read(&compressed, id, &bytes, MAX).unwrap(), text);
        }
    }

    #[test]
    fn the_limit_is_for_the_value_before_it_is_compressed() {
        let codec = Compressed::new(Bincode);
        let text = "a".repeat(5_000);
        let mut out = Vec::new();
        let sealed = codec.seal((&text, &within(5_011)), &mut out);
        let id = sealed.unwrap().id;
        assert_eq!(read(&codec, id, &out, 5_011).unwrap(), text);
        let error = read(&codec, id, &out, 5_010).unwrap_err();
        assert!(error.to_string().contains("takes 5011 bytes"), "{error}");
        let sealed = codec.seal((&text, &within(5_010)), &mut Vec::new());
        let error = sealed.unwrap_err();
        assert!(matches!(
            error.category(),
            Category::ValueTooLarge { size: 5_011, .. }
        ));
    }

    #[cfg(feature = "inspect")]
    #[test]
    fn a_tool_decompresses_so_much() {
        use crate::wire::codec::below_layers;

        let (id, bytes) = write(&Compressed::new(Bincode), &"a".repeat(5_000));
        // Eight bytes are its shape, and three say how long the text is.
        let (inner, plain) = below_layers(id, &bytes, 5_011).unwrap();
        assert_eq!((inner, plain.len()), (Bincode::ID, 5_011));
        assert_eq!(below_layers(id, &bytes, 5_010), None);
        assert_eq!(below_layers(id, b"damaged", MAX), None);
        // Its own bytes cannot be read without a key.
        assert_eq!(below_layers(6, &bytes, MAX), None);
    }

    #[test]
    fn layers_in_layers_are_refused() {
        let (_, mut bytes) = write(&Compressed::new(Bincode), &"a".repeat(2_000));
        bytes[0] = ids::COMPRESSED;
        let error = read(&Bincode, ids::COMPRESSED, &bytes, MAX).unwrap_err();
        assert_eq!(error.to_string(), "no codec with id 5 is compiled in");
    }
}
