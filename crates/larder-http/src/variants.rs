//! The variants of a response: on what it depends, and their keys.

use std::collections::BTreeSet;
use std::time::Duration;

use ::http::HeaderMap;
use hmac::digest::Key;
use hmac::{Hmac, KeyInit as _, Mac as _};
use larder::internal::seed;
use larder::{Cache, Loaded};
use sha2::Sha256;

use super::policy::MAX_NAMES;
use super::stored::{CachedResponse, Content, Scheme, Varies};

/// The most bytes that a variant adds to the key of its resource.
pub(super) const VARIANT_BYTES: usize = 34;

/// For how long it is remembered on which headers a response depends.
const VARIES_FOR: Duration = Duration::from_secs(24 * 3600);

impl Varies {
    pub(super) fn on(names: BTreeSet<String>) -> Self {
        let secret = (u128::from(seed()) << 64 | u128::from(seed())).to_le_bytes();
        let names = names.into_iter().collect();
        Self { names, secret }
    }

    pub(super) fn covers(&self, names: &BTreeSet<String>) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }

    /// As the cache stores it.
    pub(super) fn loaded(self) -> Loaded<CachedResponse> {
        let response = CachedResponse(Content::Varies(self));
        Loaded::new(response).ttl(VARIES_FOR).soft_ttl(VARIES_FOR)
    }
}

/// Has a resource depend on the scheme and on these headers besides those that are known, and returns all of them. The
/// variants that are stored are not found any more. `None` if they would be too many, or if that could not be stored.
pub(super) async fn widen(
    cache: &Cache<String, CachedResponse>,
    primary: &str,
    mut names: BTreeSet<String>,
) -> Option<Varies> {
    // Another request may have done so since this one has looked.
    let entry = cache.get(primary).await;
    if let Some(entry) = &entry
        && let Content::Varies(known) = &entry.value().0
    {
        if known.covers(&names) {
            return Some(known.clone());
        }
        names.extend(known.names.iter().cloned());
    }
    if names.len() > MAX_NAMES {
        return None;
    }
    // With another secret: variants by fewer headers are not found any more.
    let varies = Varies::on(names);
    // It names no response yet, so it may be stored whatever has happened meanwhile.
    let stored = cache.insert(primary, varies.clone().loaded()).await;
    stored.is_ok().then_some(varies)
}

/// The key of one variant. The scheme and the headers of the request are hashed with the secret of the resource.
pub(super) fn variant_key(
    primary: &str,
    varies: &Varies,
    scheme: Scheme,
    headers: &HeaderMap,
) -> String {
    let mut key = Key::<Hmac<Sha256>>::default();
    for (to, from) in key.iter_mut().zip(varies.secret) {
        *to = from;
    }
    let mut hash = Hmac::<Sha256>::new(&key);
    hash.update(&[scheme as u8]);
    for name in &varies.names {
        // Each part with its length, so that no two lists of parts are hashed as the same bytes.
        for part in [name.as_bytes(), &select(name, headers)] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let hash = hash.finalize().into_bytes();
    let half = (hash.iter().take(16)).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    // A space is in no URI.
    format!("{primary} {half:032x}")
}

/// The value of a request in a header. HTTP/2 may send the cookies of one request in several lines.
fn select(name: &str, headers: &HeaderMap) -> Vec<u8> {
    let separator: &[u8] = if name == "cookie" { b"; " } else { b", " };
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> = lines.map(|line| line.as_bytes().trim_ascii()).collect();
    lines.join(separator)
}
