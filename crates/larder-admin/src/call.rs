//! A request that was accepted: the caches that it is about, its query and its body.

use larder::caches::AnyCache;
use larder::key::{MAX_KEY_BYTES, redis_key};
use serde::de::DeserializeOwned;
use serde_json::from_slice;

use super::query::Query;
use super::reply::Reply;

pub(super) struct AdminCall {
    /// One cache, or all caches of the service.
    pub(super) caches: Vec<AnyCache>,
    pub(super) query: Query,
    /// Empty unless the method is PUT.
    pub(super) body: Vec<u8>,
}

/// The most keys of an answer, and how many there are unless the query says `most`.
const MOST: (usize, usize) = (1_000, 100);

impl AdminCall {
    /// The cache of a path that names one.
    pub(super) fn cache(&self) -> Result<&AnyCache, Reply> {
        let gone = || Reply::not_found("there is no such cache");
        self.caches.first().ok_or_else(gone)
    }

    /// The key, tag or prefix in the query.
    pub(super) fn text(&self, name: &str) -> Result<String, Reply> {
        let Some(text) = self.query.get(name) else {
            return Err(Reply::bad_request(format_args!("the query lacks {name}")));
        };
        let too_long =
            || Reply::bad_request(format_args!("the key is longer than {MAX_KEY_BYTES} bytes"));
        redis_key(text).ok_or_else(too_long)
    }

    /// How many keys are asked for.
    pub(super) fn most(&self) -> Result<usize, Reply> {
        let (limit, usual) = MOST;
        let Some(text) = self.query.get("most") else {
            return Ok(usual);
        };
        let most = text.parse().ok().filter(|most| (1..=limit).contains(most));
        most.ok_or_else(|| Reply::bad_request(format_args!("most is a number from 1 to {limit}")))
    }

    /// What the body says, if it meets a condition; `expected` names it.
    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        expected: &str,
        condition: impl Fn(&T) -> bool,
    ) -> Result<T, Reply> {
        let parsed = from_slice(&self.body).ok().filter(condition);
        parsed.ok_or_else(|| Reply::bad_request(format_args!("the body has to be {expected}")))
    }
}
