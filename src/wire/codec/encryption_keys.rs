//! The keys that values are encrypted with, and the bytes of encrypted values.
//!
//! ```text
//!  0  id of the key u32
//!  4  nonce
//! 16  the encrypted bytes, then the tag of 16 bytes
//! ```

use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce, Tag};

use super::{Category, CodecError, Result, ValueContext};

const KEY: usize = 32;
const KEY_ID: usize = 4;
const NONCE: usize = 12;
const AUTH_TAG: usize = 16;

/// How many bytes come before the encrypted ones.
pub(super) const HEADER: usize = KEY_ID + NONCE;
/// How many bytes encryption adds to a value.
pub(super) const OVERHEAD: usize = HEADER + AUTH_TAG;

/// The associated data begins with this, so that other uses of a key do not make bytes that pass for a value.
const DOMAIN: &[u8] = b"larder value 1";

/// The keys of [`Encrypted`](super::Encrypted): one that encrypts, and others that are only read.
///
/// A key is 256 random bits, for AES-256-GCM-SIV. It has an id, which is stored with each value that it encrypts. Never
/// give an id to another key while values under the old one may still be stored: they would be misses.
///
/// ```
/// use larder::codec::EncryptionKeys;
/// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
///
/// let keys = EncryptionKeys::new(2, &secret("cache-key-2"))?.also_reads(1, &secret("cache-key-1"))?;
/// assert_eq!(format!("{keys:?}"), "EncryptionKeys { writes: 2, also_reads: [1] }");
/// # Ok::<(), larder::codec::InvalidKey>(())
/// ```
///
/// Clones share the keys. When the last one is dropped they are overwritten with zeros, but for copies that the
/// compiler has left on the stack; the secrets that you made them of are yours to overwrite. `Debug` shows ids only.
///
/// # Changing keys
///
/// A value whose key an instance does not have is a miss. So that there are none, in three steps, each on all instances
/// before the next one:
///
/// 1. `new(1, …).also_reads(2, …)`: all can read values under the new key.
/// 2. `new(2, …).also_reads(1, …)`: it encrypts.
/// 3. `new(2, …)`, once the longest TTL has passed. With [`sliding`](crate::Builder::sliding), `touch` or
///    `Loaded::unchanged` a value stays encrypted with the key that it was written with; the rest is loaded anew.
///
/// If a key has become known to others, leave it out at once instead: values that they write with it are refused then,
/// and all values under it are misses.
#[derive(Clone, Debug)]
pub struct EncryptionKeys {
    /// Encrypts.
    writes: Arc<Key>,
    /// Each with a pointer, so that none is copied when the list grows.
    also_reads: Vec<Arc<Key>>,
}

struct Key {
    id: u32,
    cipher: Aes256GcmSiv,
}

/// Why [`EncryptionKeys`] refuses a key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(String);

impl EncryptionKeys {
    /// Encrypts with this key, and reads values under it.
    ///
    /// # Errors
    ///
    /// If the key has not 32 bytes.
    pub fn new(id: u32, key: &[u8]) -> Result<Self, InvalidKey> {
        Ok(Self {
            writes: Arc::new(Key::new(id, key)?),
            also_reads: Vec::new(),
        })
    }

    /// Also reads values under this key: one that was used before, or one that will be.
    ///
    /// # Errors
    ///
    /// If the key has not 32 bytes, or another one has the same id.
    pub fn also_reads(mut self, id: u32, key: &[u8]) -> Result<Self, InvalidKey> {
        if self.find(id).is_some() {
            return Err(InvalidKey(format!("two keys have the id {id}")));
        }
        self.also_reads.push(Arc::new(Key::new(id, key)?));
        Ok(self)
    }

    // A search and no map: a fleet has two keys while it changes them, and one otherwise.
    fn find(&self, id: u32) -> Option<&Key> {
        let mut all = [&self.writes].into_iter().chain(&self.also_reads);
        all.find(|key| key.id == id).map(|key| &**key)
    }

    /// Encrypts the bytes of `out` from `start` on, behind [`HEADER`] bytes for the head.
    pub(super) fn encrypt(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        context: &ValueContext<'_>,
    ) -> Result<()> {
        let Key { id, cipher } = &*self.writes;
        // Of the system and not of a generator that is seeded once: a fork or a copied machine would repeat nonces.
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(CodecError::new)?;
        let parts = out.get_mut(start..);
        let parts = parts.and_then(|bytes| bytes.split_first_chunk_mut::<HEADER>());
        let (head, plain) = parts.ok_or(Category::Refused)?;
        let (key_id, nonce_field) = head.split_at_mut(KEY_ID);
        key_id.copy_from_slice(&id.to_be_bytes());
        nonce_field.copy_from_slice(&nonce);
        let (nonce, data) = (Nonce::from(nonce), associated_data(*id, context));
        let tag = cipher.encrypt_inout_detached(&nonce, &data, plain.into());
        out.extend_from_slice(&tag.map_err(|_| Category::Refused)?);
        Ok(())
    }

    /// Decrypts the bytes of [`encrypt`](Self::encrypt) with the key that they name.
    pub(super) fn decrypt(&self, bytes: &[u8], context: &ValueContext<'_>) -> Result<Vec<u8>> {
        let short = Category::Malformed;
        let (id, rest) = bytes.split_first_chunk::<KEY_ID>().ok_or(short)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(short)?;
        let (encrypted, tag) = rest.split_last_chunk::<AUTH_TAG>().ok_or(short)?;
        let id = u32::from_be_bytes(*id);
        let key = self.find(id).ok_or(Category::UnknownKey(id))?;
        // Not in place: the stored bytes are shared by all callers of the look-up.
        let mut plain = encrypted.to_vec();
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        let (data, bytes) = (associated_data(id, context), plain.as_mut_slice().into());
        let opened = (key.cipher).decrypt_inout_detached(&nonce, &data, bytes, &tag);
        opened.map_err(|_| Category::NotAuthentic)?;
        Ok(plain)
    }
}

/// All that a value is bound to: it can be read in no other context. The lengths keep one part from passing for
/// another.
fn associated_data(key_id: u32, context: &ValueContext<'_>) -> Vec<u8> {
    let (namespace, key) = (context.namespace, context.key);
    let mut data = Vec::with_capacity(64 + namespace.len() + key.len());
    data.extend_from_slice(DOMAIN);
    data.extend_from_slice(&key_id.to_be_bytes());
    data.extend_from_slice(&context.type_tag.to_be_bytes());
    let tags = context.tags.iter().map(|tag| &**tag);
    for text in [namespace, key].into_iter().chain(tags) {
        // Without lengths `("ab", "c")` and `("a", "bc")` would be one context.
        data.extend_from_slice(&(text.len() as u64).to_be_bytes());
        data.extend_from_slice(text.as_bytes());
    }
    data
}

impl Key {
    fn new(id: u32, key: &[u8]) -> Result<Self, InvalidKey> {
        // A shorter secret is refused and not stretched: that would hide that it is a password.
        let other = |_| format!("a key of AES-256 has 32 bytes, and not {}", key.len());
        let key: &[u8; KEY] = key.try_into().map_err(other).map_err(InvalidKey)?;
        let cipher = Aes256GcmSiv::new(key.into());
        Ok(Self { id, cipher })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the secret.
        self.id.fmt(f)
    }
}
