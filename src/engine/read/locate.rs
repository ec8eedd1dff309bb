//! Which level holds a key, for operators: without a look-up, so neither level changes.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::lookup::Reads;
use super::partitions::PartitionReads;
use super::tags::{self, MayUseProof};
use crate::clock::Tick;
use crate::entry::{AnyEntry, Meta};
use crate::error::L2Error;
use crate::key::Key;
use crate::l1::SharedRecord;
use crate::l2::{AcceptedValue, LeaseReply, LeaseRequest};
use crate::vocabulary::Source;

/// What both levels hold for a key.
#[derive(Debug)]
pub struct Located {
    /// Whether the cache is on for the key.
    pub is_enabled: bool,
    /// Whether an invalidation of the key waits for L2, so that neither level is used for it.
    pub is_deferred: bool,
    /// The entry that L1 could answer with now.
    pub l1: Option<LocatedEntry>,
    /// The value that L2 could answer with now.
    pub l2: Result<Option<LocatedEntry>, L2Error>,
}

/// All of an entry but its value.
#[derive(Debug)]
pub struct LocatedEntry {
    /// All that a look-up says beside the value.
    pub meta: Meta,
    /// The texts of its tags.
    pub tags: Vec<String>,
}

impl LocatedEntry {
    fn new(record: SharedRecord, now: Tick, source: Source) -> Self {
        let entry = AnyEntry::new(record, now, source);
        let tags = entry.record().tag_names();
        Self {
            meta: entry.meta(),
            tags: tags.map(str::to_owned).collect(),
        }
    }
}

impl PartitionReads {
    /// What both levels hold for a key.
    pub(crate) fn locate(&self, key: Key) -> BoxFuture<'static, Located> {
        let partition = Arc::clone(self.for_key(&key));
        Box::pin(async move { partition.locate(&key).await })
    }
}

impl Reads {
    async fn locate(&self, key: &Key) -> Located {
        let (ctx, now) = (&self.ctx, self.now());
        // Not by a look-up: that counts as a hit, and keeps the entry in L1 for longer.
        let l1 = ctx.l1.get(key, now);
        Located {
            is_enabled: !ctx.switch.is_off_for(key),
            is_deferred: ctx.deferred.holds(key),
            l1: l1.map(|record| LocatedEntry::new(record, now, Source::L1)),
            l2: self.find_in_l2(key).await,
        }
    }

    /// The read in which the server compares epochs, also if the key is blocked: operators ask what is there.
    async fn find_in_l2(&self, key: &Key) -> Result<Option<LocatedEntry>, L2Error> {
        let ctx = &*self.ctx;
        let ask = LeaseRequest::read_only(AcceptedValue::Any);
        let LeaseReply::Hit(bytes) = ctx.acquire_lease(key, ask).await? else {
            return Ok(None);
        };
        let now = ctx.now();
        // Damaged and of another type are misses, as for a look-up. `larder inspect` says why.
        let opened = tags::open(ctx, MayUseProof::Yes, key, &bytes, now).await;
        Ok(opened
            .ok()
            .map(|record| LocatedEntry::new(record, now, Source::L2)))
    }
}
