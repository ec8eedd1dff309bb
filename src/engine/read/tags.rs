//! Whether the tags of a value that L2 holds leave it valid (rule 20: tags).
//!
//! While this instance has a freshness proof, messages say it for each tag of which L2 was asked once. Otherwise L2 is
//! asked: once for all values of a look-up.
//!
//! A hit of L1 asks nothing: it compares the floors that this instance knows (`has_valid_tags` in `l1/record`). L2 is
//! asked for a tag again in another generation, without a proof, for a value of another epoch, and after the last entry
//! with the tag has gone from L1 (`l1/tags`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ablation::{Rule, without};
use crate::clock::Tick;
use crate::engine::context::Context;
use crate::key::Key;
use crate::l1::{Caller, NoValue, ReadOutcome, Record, SharedRecord, TagState};
use crate::l2::{AcceptedValue, TagVersion};
use crate::vocabulary::Version;

/// Whether a read may rely on the freshness proof for epochs and tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MayUseProof {
    /// It does, while there is a proof.
    Yes,
    /// L2 is asked: the caller knows of a change that this instance may not have applied yet (rule 22: a token names a
    /// write).
    No,
}

impl MayUseProof {
    /// For a read that other callers may join: by those alone that had a proof when they asked (rule 5: no unproven
    /// joins).
    pub(super) fn of(caller: Caller) -> Self {
        if caller.is_proven {
            Self::Yes
        } else {
            Self::No
        }
    }
}

/// Reads stored bytes, and checks their tags. The caller decides whether their epoch and age are right.
///
/// If the value may not be used, returns the request for another one.
pub(crate) async fn open(
    ctx: &Context,
    may_use_proof: MayUseProof,
    key: &Key,
    bytes: &[u8],
    now: Tick,
) -> Result<SharedRecord, AcceptedValue> {
    let record = ctx.convert.open(key, bytes, now)?;
    if !record.has_tags() {
        return Ok(record);
    }
    match ask_unknown(ctx, may_use_proof, [&*record]).await {
        Some(versions) if is_valid(ctx, &record, &versions) => Ok(record),
        _ => Err(refuse(ctx, &record)),
    }
}

/// Checks the tags of values that were read: those that are not valid are to be replaced.
pub(crate) async fn check(
    ctx: &Context,
    may_use_proof: MayUseProof,
    outcomes: impl IntoIterator<Item = &mut ReadOutcome>,
) {
    let tagged = outcomes.into_iter().filter_map(|outcome| match outcome {
        Ok(record) if record.has_tags() => Some((Arc::clone(record), outcome)),
        _ => None,
    });
    // First all of them, so that a look-up asks for its tag versions in one request.
    let tagged: Vec<_> = tagged.collect();
    let versions = ask_unknown(
        ctx,
        may_use_proof,
        tagged.iter().map(|(record, _)| &**record),
    )
    .await;
    for (record, outcome) in tagged {
        match &versions {
            None => *outcome = Err(NoValue::Unavailable),
            Some(versions) if is_valid(ctx, &record, versions) => {}
            Some(_) => *outcome = Err(NoValue::Missing(refuse(ctx, &record))),
        }
    }
}

/// The tag versions that L2 has; a tag that is missing here need not be asked for.
type TagVersions = BTreeMap<Key, Option<TagVersion>>;

/// Asks L2 for the tags of which messages do not say whether they were invalidated. `None` without an answer.
async fn ask_unknown<'a>(
    ctx: &Context,
    may_use_proof: MayUseProof,
    records: impl IntoIterator<Item = &'a Record>,
) -> Option<TagVersions> {
    let is_live = may_use_proof == MayUseProof::Yes && ctx.l1.freshness.is_live();
    // The proof before the generation: a proof that came after a flush says nothing of tags that were known before it.
    // The generation before the epoch: a value of a former epoch is not compared with the floors of this one.
    let generation = ctx.l1.freshness.generation();
    let epoch = ctx.l1.freshness.epoch();
    let mut unknown = TagVersions::new();
    for record in records {
        let is_known = |tag: &Arc<TagState>| {
            is_live && record.version.epoch == epoch && tag.is_known(generation)
        };
        let tags = record.tags();
        let tags = tags.iter().filter(|tag| !is_known(tag));
        unknown.extend(tags.map(|tag| (tag.name.clone(), None)));
    }
    if unknown.is_empty() {
        return Some(unknown);
    }
    let names: Vec<&str> = unknown.keys().map(|name| &**name).collect();
    let asking = ctx.partition.tag_versions(&names);
    let versions = ctx.breaker.send("tag_versions", asking).await.ok()?;
    Some(unknown.into_keys().zip(versions).collect())
}

/// The request for a value instead of one that is not valid by its tags.
fn refuse(ctx: &Context, record: &Record) -> AcceptedValue {
    ctx.counters.l2_misses.bump();
    AcceptedValue::OtherThan(record.version.ver)
}

fn is_valid(ctx: &Context, record: &Record, versions: &TagVersions) -> bool {
    let (tags, Version { epoch, ver }) = (record.tags(), record.version);
    // The floors are of the epoch that this instance knows.
    let is_of_known = epoch == ctx.l1.freshness.epoch();
    let mut is_valid = true;
    for tag in tags.iter() {
        match versions.get(&tag.name) {
            None => {}
            Some(Some(at)) if at.epoch == epoch => {
                is_valid &= at.ver < ver;
                if is_of_known {
                    tag.learn(at.ver);
                }
            }
            // Its version is lost, and with it when the tag was invalidated.
            Some(_) => is_valid &= without(Rule::TagVersions),
        }
        // While the invalidation of a tag is deferred, both levels may be old (rule 14: deferred writes).
        is_valid &= !ctx.deferred.holds_tag(&tag.name);
    }
    is_valid && tags.allow(ver)
}
