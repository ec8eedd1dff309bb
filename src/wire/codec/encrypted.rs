//! The layer that encrypts.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encryption_keys::{EncryptionKeys, HEADER, OVERHEAD};
use super::stack::{EncodedAs, WithContext};
use super::{Category, CodecStack, Result, Unencrypted, check_size, ids};

/// Encrypts the encoded bytes of values, so that without the key the values in Redis can neither be read nor altered.
///
/// ```
/// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::codec::{Auto, Encrypted, EncryptionKeys};
/// use larder::{Cache, MemoryL2};
///
/// # let secret = [7; 32];
/// let keys = EncryptionKeys::new(1, &secret)?;
/// let patients: Cache<u64, String> = Cache::builder("docs:patient")
///     .l2(MemoryL2::new())
///     .codec(Encrypted::new(Auto, keys))
///     .build()?;
/// patients.insert(&7, "Ann".to_owned()).await?;
/// assert_eq!(*patients.get(&7).await.ok_or("it was stored")?, "Ann");
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// The cipher is AES-256-GCM-SIV (RFC 8452), by the crate `aes-gcm-siv`, which has not been audited; its AES was. A
/// value can be read back only where it belongs: under its namespace and key, for its type and
/// [`schema_version`](crate::Builder::schema_version), with its tags, and by the codec that it was encoded with. A
/// value that was altered, moved to another key or relabelled is a miss, like damaged bytes, and so is one without
/// encryption. [`Stats::decode_errors`](crate::Stats::decode_errors) counts them.
///
/// Encrypted bytes cannot be compressed, so `Compressed` goes inside: `Encrypted::new(Compressed::new(Json), keys)`.
/// The other way round is an error of the compiler:
///
/// ```compile_fail,E0277
/// use larder::codec::{Auto, Compressed, Encrypted, EncryptionKeys};
///
/// let keys = EncryptionKeys::new(1, &[7; 32]).unwrap();
/// let codec = Compressed::new(Encrypted::new(Auto, keys));
/// ```
///
/// # Limits
///
/// - It hides values, and nothing else: keys of entries, tags, sizes and times stand in Redis as they are. A secret
///   does not belong in a key. Where `Compressed` is inside, the size also tells how well a value compresses. Somebody
///   who chooses a part of a value, and sees its size, can guess the rest piece by piece: a value with a right guess
///   takes a few bytes less than one with a wrong one. Do not compress values that hold a secret beside parts that
///   others choose.
/// - When a value was written, and until when it is valid, is written by scripts in Redis and cannot be authenticated.
///   Somebody with write access to Redis can replay an older value of the same key, even one that was invalidated, and
///   extend its lifetime; both only while the instances have the key that it was encrypted with. They can also remove
///   values, and keep instances from hearing of invalidations.
/// - Values in L1, and in the process at large, are not encrypted.
/// - An entry is bound to its namespace, but not to a server: give test systems other encryption keys.
///
/// # How much a key may encrypt
///
/// Each value gets a random nonce of 96 bits. Should two get the same one, it shows only whether both are the same
/// value of the same entry. Among 2^32 values two share a nonce with a probability below 2^-32: that is a cautious
/// limit for a key. A fleet that writes 1 000 values a second gets there in 49 days.
///
/// # Moving to it
///
/// An instance without the keys cannot read encrypted values: to it they are misses. So that nothing is loaded in vain,
/// in three steps, each on all instances before the next one:
///
/// 1. [`write_unencrypted`](Self::write_unencrypted): all have the keys, and read both.
/// 2. [`accept_unencrypted`](Self::accept_unencrypted): all encrypt, and read both.
/// 3. Neither, once the longest TTL has passed. Only now is a value refused that somebody has put there without a key.
///
/// The same steps in reverse lead back. A value that is read, touched or revalidated (`Loaded::unchanged`) stays as it
/// was written; such values that are left when the last step comes are loaded anew.
///
/// # Cost
///
/// 33 bytes for each value, which count towards [`max_value_size`](crate::Builder::max_value_size). To encode takes a
/// system call, for the nonce; to decode takes a copy of the bytes. Where the processor has instructions for AES they
/// are used.
#[derive(Debug, Clone)]
pub struct Encrypted<C> {
    codec: C,
    keys: EncryptionKeys,
    accepts_unencrypted: bool,
    writes_unencrypted: bool,
}

impl<C: Unencrypted> Encrypted<C> {
    /// Encrypts the bytes of this codec; a codec alone or one that is `Compressed`.
    pub fn new(codec: C, keys: EncryptionKeys) -> Self {
        Self {
            codec,
            keys,
            accepts_unencrypted: false,
            writes_unencrypted: false,
        }
    }

    /// Also reads values that are not encrypted, while a fleet moves to encryption. Default: they are misses.
    ///
    /// While it is set, a value that somebody else has put into Redis is read as if it were one of this cache.
    #[must_use]
    pub fn accept_unencrypted(mut self) -> Self {
        self.accepts_unencrypted = true;
        self
    }

    /// Does not encrypt yet, but reads values with and without encryption: the first step to encryption, or the last
    /// one back from it. Default: off.
    #[must_use]
    pub fn write_unencrypted(mut self) -> Self {
        self.writes_unencrypted = true;
        self.accept_unencrypted()
    }
}

/// The plain bytes are the id of the inner format, and the bytes in it.
impl<C: Unencrypted> CodecStack for Encrypted<C> {
    type Base = C::Base;

    fn base(&self) -> &C::Base {
        self.codec.base()
    }

    fn seal<T: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        value: WithContext<'_, T>,
        out: &mut Vec<u8>,
    ) -> Result<EncodedAs> {
        let (_, context) = value;
        if self.writes_unencrypted {
            return self.codec.seal(value, out);
        }
        let start = out.len();
        // Room for the head and the id, so that nothing is copied when these are known.
        out.extend_from_slice(&[0; HEADER + 1]);
        let written = self.codec.seal(value, out)?;
        let size = out.len().saturating_sub(start + HEADER) + OVERHEAD;
        let max = context.max;
        if size > max {
            return Err(Category::ValueTooLarge { size, max }.into());
        }
        if let Some(field) = out.get_mut(start + HEADER) {
            *field = written.id;
        }
        self.keys.encrypt(out, start, context)?;
        debug_assert_eq!(out.len(), start + size);
        Ok(EncodedAs {
            id: ids::ENCRYPTED,
            ..written
        })
    }

    fn open<T>(
        &self,
        id: u8,
        bytes: WithContext<'_, [u8]>,
        read: impl FnOnce(u8, &[u8]) -> Result<T>,
    ) -> Result<T> {
        if id != ids::ENCRYPTED {
            // Otherwise anybody with write access to Redis could store a value without a key.
            if !self.accepts_unencrypted {
                return Err(Category::Unencrypted.into());
            }
            return self.codec.open(id, bytes, read);
        }
        let (bytes, context) = bytes;
        check_size(bytes.len(), context.max)?;
        let plain = self.keys.decrypt(bytes, context)?;
        let (id, bytes) = plain.split_first().ok_or(Category::Malformed)?;
        self.codec.open(*id, (bytes, context), read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::key::Key;
    use crate::wire::codec::stack::{read_by, read_by_any};
    use crate::wire::codec::{BaseCodec, Bincode, Codec, ValueContext};
    use serde::de::DeserializeOwned;

    const SECRET: [u8; 32] = [0xab; 32];
    const OTHER: [u8; 32] = [0xcd; 32];
    const TAGS: [Key; 0] = [];
    const CONTEXT: ValueContext<'static> = ValueContext {
        namespace: "ns",
        key: "k",
        type_tag: 7,
        tags: &TAGS,
        max: 1 << 20,
    };

    fn within(max: usize) -> ValueContext<'static> {
        ValueContext { max, ..CONTEXT }
    }

    fn keys(id: u32, secret: &[u8]) -> EncryptionKeys {
        EncryptionKeys::new(id, secret).unwrap()
    }

    fn encrypted() -> Encrypted<Bincode> {
        Encrypted::new(Bincode, keys(1, &SECRET))
    }

    fn sealed(codec: &impl CodecStack, text: &str, context: &ValueContext<'_>) -> (u8, Vec<u8>) {
        let mut out = b"head".to_vec();
        let sealed = codec.seal((&text.to_owned(), context), &mut out);
        assert_eq!(out.drain(..4).as_slice(), b"head");
        (sealed.unwrap().id, out)
    }

    fn read(
        codec: &impl CodecStack,
        (id, bytes): (u8, &[u8]),
        context: &ValueContext<'_>,
    ) -> Result<String, String> {
        let read = |id, bytes: &[u8]| read_by::<_, String>(codec.base().codec(), id, bytes);
        let opened = codec.open(id, (bytes, context), read);
        opened.map_err(|error| {
            let source = std::error::Error::source(&error);
            assert!(source.is_none(), "{source:?}");
            error.to_string()
        })
    }

    fn is_refused(context: &ValueContext<'_>, bytes: &[u8]) -> bool {
        read(&encrypted(), (ids::ENCRYPTED, bytes), context).is_err()
    }

    /// The inner bytes of the frozen layout.
    struct Bare;

    impl Codec for Bare {
        const ID: u8 = 1;
        const NAME: &'static str = "bare";

        fn encode<T: Serialize + ?Sized>(&self, _: &T, _: &mut Vec<u8>) -> Result<()> {
            Err(Category::Refused.into())
        }

        fn decode<T: DeserializeOwned + Send>(&self, bytes: &[u8]) -> Result<T> {
            let config = bincode::config::standard();
            let decoded = bincode::serde::decode_from_slice(bytes, config);
            decoded
                .map(|(value, _)| value)
                .map_err(|_| Category::Refused.into())
        }
    }

    /// The layout and what is authenticated are shared with other releases: this test fails when they drift.
    #[test]
    fn the_layout_is_frozen() {
        assert_eq!(ids::ENCRYPTED, 6);
        // Made by OpenSSL: the key's id, the nonce 0 to 11, then "\x01\x05value" encrypted and its tag.
        let bytes = b"\0\0\0\x01\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\
            \xe0\x8b\x4f\x85\x48\x11\x6c\
            \xba\x74\x89\x02\x56\x28\x7e\x2e\x86\x22\xd5\x2c\x85\x78\xd3\x9e";
        let context = ValueContext {
            tags: &["a".into(), "b".into()],
            ..CONTEXT
        };
        let text = read(
            &Encrypted::new(Bare, keys(1, &SECRET)),
            (6, bytes),
            &context,
        );
        assert_eq!(text.as_deref(), Ok("value"));
    }

    #[test]
    fn no_two_are_the_same_and_none_shows_the_value() {
        let (id, one) = sealed(&encrypted(), "a secret", &CONTEXT);
        let (_, other) = sealed(&encrypted(), "a secret", &CONTEXT);
        assert_eq!((id, one.len()), (6, 8 + 1 + "a secret".len() + 33));
        assert_eq!(one[..4], [0, 0, 0, 1]);
        assert_ne!(one[4..16], other[4..16]);
        assert_ne!(one[16..], other[16..]);
        assert!(!one.windows(4).any(|part| part == b"secr"));
    }

    #[test]
    fn keys_change_in_three_steps() {
        let (one, two) = (keys(1, &SECRET), keys(2, &OTHER));
        let both = |keys: &EncryptionKeys, id, secret: &[u8]| {
            Encrypted::new(Bincode, keys.clone().also_reads(id, secret).unwrap())
        };
        let steps = [
            Encrypted::new(Bincode, one.clone()),
            both(&one, 2, &OTHER),
            both(&two, 1, &SECRET),
            Encrypted::new(Bincode, two),
        ];
        for pair in steps.windows(2) {
            for (writer, reader) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                let (id, bytes) = sealed(writer, "value", &CONTEXT);
                let text = read(reader, (id, &bytes), &CONTEXT);
                assert_eq!(text.as_deref(), Ok("value"), "{writer:?} {reader:?}");
            }
        }
        let (id, bytes) = sealed(&steps[0], "value", &CONTEXT);
        let error = read(&steps[3], (id, &bytes), &CONTEXT).unwrap_err();
        assert!(error.contains("does not have, of id 1"), "{error}");
    }

    #[test]
    fn another_key_of_the_same_id_is_refused() {
        let (id, bytes) = sealed(&encrypted(), "value", &CONTEXT);
        let other = Encrypted::new(Bincode, keys(1, &OTHER));
        let error = read(&other, (id, &bytes), &CONTEXT).unwrap_err();
        assert!(error.contains("altered"), "{error}");
    }

    #[test]
    fn another_context_is_refused() {
        let tags: [Key; 2] = ["a".into(), "b".into()];
        let context = ValueContext {
            tags: &tags,
            ..CONTEXT
        };
        let (_, bytes) = sealed(&encrypted(), "value", &context);
        assert!(!is_refused(&context, &bytes));
        let other_tags: [&[Key]; 6] = [
            &[],
            &["a".into()],
            &["b".into(), "a".into()],
            &["ab".into()],
            &["a".into(), "b".into(), "".into()],
            &["a".into(), "c".into()],
        ];
        let with_tags = other_tags.map(|tags| ValueContext { tags, ..context });
        let others = [
            ValueContext {
                namespace: "ns2",
                ..context
            },
            ValueContext {
                namespace: "n",
                key: "sk",
                ..context
            },
            ValueContext {
                namespace: "nsk",
                key: "",
                ..context
            },
            ValueContext {
                key: "K",
                ..context
            },
            ValueContext {
                key: "ka",
                tags: &tags[1..],
                ..context
            },
            ValueContext {
                type_tag: 8,
                ..context
            },
        ];
        for other in others.into_iter().chain(with_tags) {
            assert!(is_refused(&other, &bytes), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_encrypted_is_read_only_where_that_is_accepted() {
        let (id, plain) = sealed(&Bincode, "value", &CONTEXT);
        let error = read(&encrypted(), (id, &plain), &CONTEXT).unwrap_err();
        assert_eq!(error, "it is not encrypted");
        let (id, bytes) = sealed(&encrypted(), "value", &CONTEXT);
        assert_eq!(id, 6);
        let accepts = encrypted().accept_unencrypted();
        let steps = [&accepts, &encrypted().write_unencrypted()];
        for reader in steps {
            for (id, bytes) in [(Bincode::ID, &plain), (id, &bytes)] {
                let text = read(reader, (id, bytes), &CONTEXT);
                assert_eq!(text.as_deref(), Ok("value"));
            }
            // Relabelled, it is not the value.
            let opened = reader.open(Bincode::ID, (&bytes, &CONTEXT), read_by_any::<String>);
            assert_ne!(opened.ok().as_deref(), Some("value"));
            assert!(read(reader, (id, &plain), &CONTEXT).is_err());
        }
        assert_eq!(sealed(steps[0], "value", &CONTEXT).0, ids::ENCRYPTED);
        assert_eq!(sealed(steps[1], "value", &CONTEXT), (Bincode::ID, plain));
    }

    #[test]
    fn a_codec_without_keys_says_so() {
        let (id, bytes) = sealed(&encrypted(), "value", &CONTEXT);
        let error = read(&Bincode, (id, &bytes), &CONTEXT).unwrap_err();
        assert_eq!(error, "it is encrypted, and this instance has no keys");
    }

    #[test]
    fn what_fits_when_it_is_written_is_read() {
        let (id, bytes) = sealed(&encrypted(), "value", &CONTEXT);
        let size = bytes.len();
        let codec = encrypted();
        let seal = |max| codec.seal((&"value".to_owned(), &within(max)), &mut Vec::new());
        let open = |max| codec.open(id, (&bytes, &within(max)), read_by_any::<String>);
        assert!(seal(size).is_ok() && open(size).is_ok());
        let error = open(size - 1).unwrap_err();
        assert!(error.to_string().contains("takes 47 bytes"), "{error}");
        let too_large = |max, size| {
            let error = seal(max).unwrap_err();
            assert!(
                matches!(error.category(), Category::ValueTooLarge { size: n, .. } if n == size),
                "{error}"
            );
        };
        too_large(46, 47);
        too_large(5, 14);
    }

    #[test]
    fn keys_that_cannot_be_used_are_refused() {
        for length in [0, 16, 31, 33, 64] {
            let error = EncryptionKeys::new(1, &vec![0xab; length]).unwrap_err();
            assert!(
                error.to_string().ends_with(&format!("not {length}")),
                "{error}"
            );
            assert!(keys(1, &SECRET).also_reads(2, &vec![0xab; length]).is_err());
        }
        let both = keys(1, &SECRET).also_reads(2, &OTHER).unwrap();
        for id in [1, 2] {
            let error = both.clone().also_reads(id, &SECRET).unwrap_err();
            assert_eq!(error.to_string(), format!("two keys have the id {id}"));
        }
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let secret: Vec<u8> = (200..232).collect();
        let codec = Encrypted::new(Bincode, keys(1, &secret).also_reads(2, &OTHER).unwrap());
        let error = EncryptionKeys::new(1, &secret[1..]).unwrap_err();
        let shown = format!("{codec:?} {error:?} {error}");
        for two in secret.windows(2).chain(OTHER.windows(2)) {
            let (one, two) = (two[0], two[1]);
            for part in [format!("{one}, {two}"), format!("{one:02x}{two:02x}")] {
                assert!(!shown.to_lowercase().contains(&part), "{shown}");
            }
        }
    }

    #[cfg(feature = "compression")]
    #[test]
    fn layers_nest() {
        use crate::wire::codec::Compressed;

        let codec = Encrypted::new(Compressed::new(Bincode), keys(1, &SECRET));
        let text = "text".repeat(10_000);
        let (id, bytes) = sealed(&codec, &text, &CONTEXT);
        assert_eq!((id, bytes.len() < 1_000), (ids::ENCRYPTED, true));
        assert_eq!(read(&codec, (id, &bytes), &CONTEXT).as_ref(), Ok(&text));
        // The inner format is in what is encrypted: one that compresses and one that does not read each other's.
        assert_eq!(
            read(&encrypted(), (id, &bytes), &CONTEXT).as_ref(),
            Ok(&text)
        );
        let (id, bytes) = sealed(&encrypted(), &text, &CONTEXT);
        assert_eq!(read(&codec, (id, &bytes), &CONTEXT).as_ref(), Ok(&text));
        // The limit is for what is decompressed, too.
        let (id, bytes) = sealed(&codec, &text, &CONTEXT);
        let error = codec
            .open(id, (&bytes, &within(40_010)), read_by_any::<String>)
            .unwrap_err();
        assert!(error.to_string().contains("takes 40011 bytes"), "{error}");
    }

    /// Namespace, key, type tag and tags; short, so that what is next to each other may pass for something else.
    type Place = (String, String, u64, Vec<Key>);

    fn place() -> impl Strategy<Value = Place> {
        let tags = prop::collection::vec("[ab]{0,2}".prop_map(|tag| tag.as_str().into()), 0..3);
        ("[ab]{0,3}", "[ab]{0,3}", 0..3_u64, tags)
    }

    fn context((namespace, key, type_tag, tags): &Place) -> ValueContext<'_> {
        ValueContext {
            namespace,
            key,
            type_tag: *type_tag,
            tags,
            max: CONTEXT.max,
        }
    }

    proptest! {
        #[test]
        fn anything_comes_back(text in ".*", place in place()) {
            let context = context(&place);
            let (id, bytes) = sealed(&encrypted(), &text, &context);
            prop_assert_eq!(read(&encrypted(), (id, &bytes), &context), Ok(text));
        }

        #[test]
        fn every_altered_byte_is_refused(text in ".{0,100}", at in any::<Index>(), by in 1..=u8::MAX) {
            let (_, mut bytes) = sealed(&encrypted(), &text, &CONTEXT);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(is_refused(&CONTEXT, &bytes));
        }

        #[test]
        fn every_other_length_is_refused(
            text in ".{0,30}",
            more in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let (_, bytes) = sealed(&encrypted(), &text, &CONTEXT);
            for end in 0..bytes.len() {
                prop_assert!(is_refused(&CONTEXT, &bytes[..end]));
            }
            prop_assert!(is_refused(&CONTEXT, &[&bytes, &more[..]].concat()));
            prop_assert!(is_refused(&CONTEXT, &[&more[..], &bytes].concat()));
        }

        #[test]
        fn another_place_is_refused(one in place(), other in place()) {
            prop_assume!(one != other);
            let (one, other) = (context(&one), context(&other));
            let (_, bytes) = sealed(&encrypted(), "value", &one);
            prop_assert!(!is_refused(&one, &bytes));
            prop_assert!(is_refused(&other, &bytes));
        }

        #[test]
        fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(is_refused(&CONTEXT, &bytes));
            prop_assert!(is_refused(&CONTEXT, &[&[0, 0, 0, 1], &bytes[..]].concat()));
        }
    }
}
