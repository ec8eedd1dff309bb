//! Look-ups with a token: they do not answer with what is older than the write that it names, also before this instance has
//! applied that write (rule 22).
//!
//! An entry that was stored by that write or later is an answer. Otherwise L2 is asked, which has every write that it has
//! accepted; and only then the loader. The token may be made up, so nothing here waits for it, and nothing in L1 changes
//! because of it.

use std::sync::Arc;

use super::context::Context;
use super::load::{Begin, Loads, Since};
use super::lookup;
use super::tags::Proof;
use crate::ablation::{Rule, without};
use crate::entry::Entry;
use crate::error::LoadError;
use crate::key::Key;
use crate::l1::ReadOutcome;
use crate::l2::Want;
use crate::source::Source;
use crate::token::Token;
use crate::vocabulary::Value;

/// Looks keys up in both levels. The results are in the order of the keys.
pub(super) async fn get_many<V: Value>(
    ctx: &Arc<Context<V>>,
    keys: &[Key],
    token: Token,
) -> Vec<Option<Entry<V>>> {
    let found = look_up(ctx, keys, token).await;
    found.into_iter().map(Result::ok).collect()
}

/// Looks a key up in both levels, and otherwise loads it. A stale value is refreshed in the background, and not waited for.
pub(super) async fn get_or_load<V: Value>(
    ctx: &Arc<Context<V>>,
    loads: &Arc<Loads<V>>,
    key: Key,
    token: Token,
    load: impl Begin<V>,
) -> Result<Entry<V>, LoadError> {
    let number = ctx.l1.in_flight().next(&key);
    let found = look_up(ctx, std::slice::from_ref(&key), token).await.pop();
    match found.unwrap_or(Err(None)) {
        Ok(entry) => {
            if entry.is_due() {
                loads.refresh_in_background(key, &entry, || load.loader());
            }
            Ok(entry)
        }
        Err(want) => {
            let since = Since::new(token, number);
            loads.load_since(key, want, load, since).await
        }
    }
}

/// L1, where an entry is new enough, and otherwise L2. Where there is no value: which stored values a load is content with;
/// `None` if L2 is not to be asked.
async fn look_up<V: Value>(
    ctx: &Arc<Context<V>>,
    keys: &[Key],
    token: Token,
) -> Vec<Result<Entry<V>, Option<Want>>> {
    let now = ctx.now();
    let (mut lacking, mut places) = (Vec::new(), Vec::new());
    let here = keys.iter().enumerate().map(|(place, key)| {
        get_local(ctx, key, token).ok_or_else(|| {
            lacking.push(key.clone());
            places.push(place);
            None
        })
    });
    let mut found: Vec<_> = here.collect();
    if lacking.is_empty() {
        return found;
    }
    let outcomes = lookup::read_many(ctx, &lacking, Proof::Unused).await;
    for ((place, key), outcome) in places.into_iter().zip(&lacking).zip(outcomes) {
        let answer = match outcome {
            ReadOutcome::Unavailable => lookup::get_unproven(ctx, key)
                .filter(|entry| ctx.l1.is_at_least(entry.slot(), token))
                .ok_or(None),
            outcome => lookup::answer(ctx, key, outcome, now),
        };
        if let Some(place) = found.get_mut(place) {
            *place = answer;
        }
    }
    found
}

/// L1 alone.
fn get_local<V: Value>(ctx: &Arc<Context<V>>, key: &Key, token: Token) -> Option<Entry<V>> {
    let now = ctx.now();
    let slot = ctx.l1.get(key, now)?;
    if !ctx.l1.is_at_least(&slot, token) && !without(Rule::Tokens) {
        return None;
    }
    let before = ctx.counters.l1_hits.bump();
    lookup::note_hit(ctx, &slot, before);
    Some(lookup::hand_out(ctx, slot, now, Source::L1))
}
