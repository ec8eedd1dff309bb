//! Loads of keys in several lanes, side by side.

use std::iter;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::future::try_join_all;
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::Loads;
use super::loader::Loader;
use super::warm::{Item, total};
use crate::clock::Tick;
use crate::engine::lanes::Lanes;
use crate::entry::Entry;
use crate::error::{LoadError, WriteError};
use crate::key::{CacheKey, Key, KeyWriter};
use crate::l2::Applied;
use crate::stats::Warming;
use crate::util::lock::lock;
use crate::vocabulary::Value;

/// The loads of all lanes.
pub(crate) type LaneLoads<V> = Lanes<Arc<Loads<V>>>;

/// How many values may wait for a lane that is stored more slowly than the others.
const WAITING: usize = 1024;

impl<V: Value> LaneLoads<V> {
    /// Looks many keys up in L1, in L2 and by one call of the loader in each lane for those that both lack. Returns
    /// their entries in the order of the keys. `loader` makes the loader for the keys at these indices.
    pub(crate) async fn get_many_or_load<Q: CacheKey + ?Sized>(
        &self,
        keys: &[&Q],
        now: Tick,
        loader: impl Fn(&[usize]) -> Loader<V>,
    ) -> Result<Vec<Option<Entry<V>>>, LoadError> {
        if let Some(only) = self.only() {
            return only.get_many_or_load(keys, now, loader).await;
        }
        let (keys, loader) = (iter::zip(0.., keys), &loader);
        let texts = keys.map(|(index, key)| {
            let text: Key = KeyWriter::new().write(*key)?.into();
            Ok((text, index, *key))
        });
        let texts = texts.collect::<Result<Vec<_>, LoadError>>()?;
        let load = async |lane: &Arc<Loads<V>>, part: Vec<(Key, usize, &Q)>| {
            let keys: Vec<&Q> = part.iter().map(|(.., key)| *key).collect();
            let index = |place: &usize| part.get(*place).map(|(_, index, _)| *index);
            let loader =
                |places: &[usize]| loader(&places.iter().filter_map(index).collect::<Vec<_>>());
            match lane.get_many_or_load(&keys, now, loader).await {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); part.len()],
            }
        };
        let entries = self.each(texts, |(text, ..)| text, load).await;
        entries.into_iter().collect()
    }

    /// A position in the log of each lane that a call comes after, without waiting. `None` while this instance has not
    /// heard of the lane.
    pub(crate) fn log_positions(&self) -> Lanes<Option<Applied>> {
        self.map(|_, lane| lane.log_position())
    }

    /// Stores the values of a stream whose keys have none, and were not changed since these positions. `progress` is
    /// called after each batch of a lane.
    pub(crate) async fn warm(
        &self,
        before: Lanes<Option<Applied>>,
        items: impl Stream<Item = Item<V>>,
        progress: impl FnMut(&Warming),
    ) -> Result<Warming, WriteError> {
        if let Some(only) = self.only() {
            return only.warm(*before.first(), items, progress).await;
        }
        let total = total(&items);
        let sum = |warmings: &[Warming]| Warming {
            total,
            ..warmings
                .iter()
                .copied()
                .fold(Warming::default(), Warming::and)
        };
        let mut receivers = Vec::new();
        let senders = self.map(|_, _| {
            let (sender, mut receiver) = mpsc::channel(WAITING);
            receivers.push(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
            sender
        });
        let feeding = async move {
            let mut items = pin!(items);
            while let Some(item) = items.next().await {
                // A key that is too long is counted by whichever lane.
                let key = item.0.as_deref().unwrap_or_default();
                if senders.of(key).send(item).await.is_err() {
                    // The lane has failed.
                    return;
                }
            }
        };
        // Of each lane, and the caller's function.
        let state = &Mutex::new((vec![Warming::default(); receivers.len()], progress));
        let lanes = self.iter().zip(before.iter()).zip(receivers).enumerate();
        let lanes = lanes.map(|(index, ((lane, before), items))| {
            lane.warm(*before, items, move |warming| {
                let (warmings, progress) = &mut *lock(state);
                if let Some(own) = warmings.get_mut(index) {
                    *own = *warming;
                }
                progress(&sum(warmings));
            })
        });
        let mut storing = pin!(try_join_all(lanes));
        let warmings = tokio::select! {
            biased;
            // Before the end of the stream, if one of them fails.
            warmings = &mut storing => warmings,
            () = feeding => storing.await,
        };
        Ok(sum(&warmings?))
    }
}
