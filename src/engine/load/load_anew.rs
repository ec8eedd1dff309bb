//! A load that a caller asks for by `refresh`, whatever is stored.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::Loads;
use super::cycles::Waiting;
use super::fill::{self, ReplacedValue, StoreResult};
use super::get::LoadFuture;
use super::lease;
use super::loader::{LoadKey, Loader};
use super::loader_call::{LoadId, QueuedLoads};
use crate::engine::local_values;
use crate::error::LoadError;
use crate::key::Key;

impl Loads {
    /// Loads a key, whatever is there and whoever loads it: joins no load, and takes the lease over from another one.
    /// The load is an operation as an insert is: its value replaces the one that any instance holds.
    pub(crate) fn refresh(self: &Arc<Self>, key: Key, loader: Loader) -> LoadFuture {
        let (loads, of, id) = (Arc::clone(self), key.clone(), LoadId::anew());
        let of_task = id.clone();
        let task = async move {
            let ctx = &loads.ctx;
            local_values::await_proof(&loads.ctx).await;
            // In this order: the operation sees each change from here on (rule 3: floors), and the lease is taken
            // before the source is read, so that no load that began before is stored after this one (rule 1: a fill
            // needs a lease).
            let op = ctx.l1.in_flight.begin(&key);
            ctx.backoff.forget(&key);
            let lease = lease::take_over(ctx, &key).await;
            let loading = loader.load(vec![LoadKey {
                loader_index: 0,
                key: key.clone(),
                previous: None,
            }]);
            let leased = [(&key, lease)];
            let loaded = loads
                .call(loading, &leased, vec![of_task], QueuedLoads::default())
                .await;
            let loaded = loaded.map(|loaded| loaded.into_iter().flatten().next());
            let ended =
                fill::fill_or_give_back(ctx, &op, lease, loaded, ReplacedValue::Any).await?;
            let ended = ended.ok_or_else(LoadError::not_found)?;
            if ended.store_result == StoreResult::Unstorable {
                loads.remove_former(&key).await;
            }
            Ok(loads.reads.hand_out(ended.record, ctx.now(), ended.source))
        };
        let ctx = Arc::clone(&self.ctx);
        Box::pin(async move {
            let waiting = Waiting::begin(&ctx, &of, || id)?;
            let loaded = tokio::spawn(task.instrument(Span::current())).await;
            drop(waiting);
            // The loader's panic is caught, so a task without a result has ended with its runtime.
            loaded.unwrap_or_else(|_| Err(LoadError::stopped()))
        })
    }
}
