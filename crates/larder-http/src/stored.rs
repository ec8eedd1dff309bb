//! The values of the cache: stored responses, and how they are serialized.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many header lines a stored response has at most. So there is room for the lines of the layer: a `HeaderMap`
/// panics when it is asked for more room than it has.
pub(super) const HEADER_LINES: usize = 1_024;

/// A response that a [`CacheLayer`](super::CacheLayer) has stored: the value type of its cache.
///
/// Opaque, as its other parts belong to the layer.
#[derive(Clone, Serialize, Deserialize)]
pub struct CachedResponse(pub(super) Content);

#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Content {
    Response(Box<Stored>),
    /// The response depends on the scheme and on these headers of the request, and each variant has a key of its own.
    Varies(Varies),
    /// It is not stored: requests need not wait for each other.
    Uncacheable,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Varies {
    /// In lower case, sorted, each of them once.
    pub(super) names: Vec<String>,
    /// The keys of the variants are hashed with it: when this is removed, none of them is found any more. Without it, a
    /// client finds no two requests with the same hash, and a reader of hashes cannot guess which headers a request
    /// had.
    pub(super) secret: [u8; 16],
}

/// By which scheme a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Scheme {
    /// Neither the request nor a rule says.
    Unknown,
    Http,
    Https,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(serialize_with = "write_status", deserialize_with = "read_status")]
    pub(super) status: StatusCode,
    #[serde(serialize_with = "write_headers", deserialize_with = "read_headers")]
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The scheme of the request whose response this is.
    pub(super) scheme: Scheme,
    pub(super) terms: Terms,
}

/// For how long a response may be used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Terms {
    /// How old the response was when it was stored.
    pub(super) age: Duration,
    /// Up to which age it is fresh.
    pub(super) lifetime: Duration,
    /// For how long after that it may be used while it is loaded anew.
    pub(super) while_revalidate: Duration,
    /// For how long after `lifetime` it may be used instead of an error.
    pub(super) if_error: Duration,
    /// Not once it is stale, whatever else is said.
    pub(super) must_revalidate: bool,
}

impl CachedResponse {
    /// The response, if it is for requests by this scheme.
    pub(super) fn stored(&self, scheme: Scheme) -> Option<&Stored> {
        match &self.0 {
            Content::Response(stored) if stored.scheme == scheme => Some(stored),
            _ => None,
        }
    }

    pub(super) fn is_uncacheable(&self) -> bool {
        matches!(self.0, Content::Uncacheable)
    }

    /// About how many bytes it takes in L1 at most, its key left out: its weight, unless the cache has an
    /// [`l1_weigher`](larder::Builder::l1_weigher) of its own.
    #[must_use]
    pub fn size(&self) -> usize {
        // An estimate from above: L1 must not grow beyond its capacity by many small headers.
        let inner = match &self.0 {
            Content::Response(stored) => {
                let headers = stored.headers.iter();
                let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + LINE);
                stored.body.len() + headers.sum::<usize>() + RESPONSE
            }
            Content::Varies(varies) => varies.names.iter().map(|name| name.len() + NAME).sum(),
            Content::Uncacheable => 0,
        };
        inner + ENTRY
    }
}

/// Bytes of the parts of an entry besides their texts: measured, with the room that lists and maps have to spare.
const ENTRY: usize = 480;
const RESPONSE: usize = 256;
const LINE: usize = 208;
const NAME: usize = 80;

/// Headers as they are stored: a copy, as a value may be a part of a connection's buffer, and keep that in memory.
/// `None` if they are more than are stored.
pub(super) fn own(headers: &HeaderMap) -> Option<HeaderMap> {
    let mut own = (headers.len() <= HEADER_LINES).then(|| headers.clone())?;
    for value in own.values_mut() {
        *value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
    }
    Some(own)
}

impl fmt::Debug for CachedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CachedResponse");
        match &self.0 {
            Content::Response(stored) => shown
                .field("status", &stored.status)
                .field("body", &stored.body.len())
                .field("terms", &stored.terms),
            Content::Varies(varies) => shown.field("varies", &varies.names),
            Content::Uncacheable => shown.field("uncacheable", &true),
        };
        shown.finish_non_exhaustive()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn write_status<S: Serializer>(status: &StatusCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u16(status.as_u16())
}

fn read_status<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    StatusCode::from_u16(u16::deserialize(from)?).map_err(D::Error::custom)
}

/// As a list of names and values, in their order.
fn write_headers<S: Serializer>(headers: &HeaderMap, to: S) -> Result<S::Ok, S::Error> {
    let lines = headers.iter().map(|(name, value)| {
        // Bytes, as most codecs write these at once, and a `[u8]` one by one.
        (name.as_str(), Bytes::copy_from_slice(value.as_bytes()))
    });
    // Some codecs need the number first.
    lines.collect::<Vec<_>>().serialize(to)
}

fn read_headers<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
    let lines = Vec::<(String, Bytes)>::deserialize(from)?;
    let count = lines.len();
    if count > HEADER_LINES {
        let error = format!("{count} headers are more than {HEADER_LINES}");
        return Err(D::Error::custom(error));
    }
    let mut headers = HeaderMap::with_capacity(count);
    for (name, value) in lines {
        let name = HeaderName::try_from(name).map_err(D::Error::custom)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(D::Error::custom)?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::{HEADER_LINES, own, read_headers};

    #[test]
    fn more_headers_than_are_stored_are_an_error() {
        let read = |lines: usize, names: usize| {
            let lines = (0..lines).map(|n| (format!("x-{}", n % names), [b'1']));
            let json = serde_json::to_vec(&lines.collect::<Vec<_>>()).unwrap();
            read_headers(&mut serde_json::Deserializer::from_slice(&json))
        };
        for names in [1, HEADER_LINES] {
            let headers = read(HEADER_LINES, names).unwrap();
            assert_eq!(headers.len(), HEADER_LINES);
            assert_eq!(own(&headers).unwrap(), headers);
        }
        // With more than 24 576 names a map panics.
        for lines in [24_577, 40_000, HEADER_LINES + 1] {
            assert!(read(lines, lines).is_err(), "{lines}");
        }
    }
}
