//! Look-ups of keys in several lanes.

use std::sync::Arc;

use super::lookup::{Found, Reads};
use crate::engine::lanes::Lanes;
use crate::entry::Entry;
use crate::key::Key;
use crate::token::Token;
use crate::vocabulary::Value;

/// The look-ups of all lanes.
pub(crate) type LaneReads<V> = Lanes<Arc<Reads<V>>>;

impl<V: Value> LaneReads<V> {
    /// L2, for keys that L1 did not have, in their order.
    pub(crate) async fn get_many(&self, keys: Vec<Key>) -> Vec<Option<Entry<V>>> {
        self.each(
            keys,
            |key| key,
            async |lane, keys| lane.get_many(&keys).await,
        )
        .await
    }

    /// Whether any look-up is one with this token.
    pub(crate) fn have_applied(&self, token: &Token) -> bool {
        self.iter().all(|lane| lane.has_applied(token))
    }

    /// L1, if an entry is new enough, and otherwise L2. The results are in the order of the keys.
    pub(crate) async fn look_up_at_least(&self, keys: Vec<Key>, token: &Token) -> Vec<Found<V>> {
        let look_up =
            async |lane: &Arc<Reads<V>>, keys: Vec<Key>| lane.look_up_at_least(&keys, token).await;
        self.each(keys, |key| key, look_up).await
    }
}
