//! The fill lease: who loads a missing key for the whole fleet, and how the lease is kept meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::Core;
use crate::key::Key;
use crate::l1::{Op, Slot};
use crate::l2::{Lease, LeaseReply, LeaseRequest, Want, random};
use crate::source::Source;

/// What came of asking for the fill lease.
pub(super) enum Turn<V> {
    /// Somebody else has loaded it, and it is here or in L2.
    Found(Arc<Slot<V>>, Source),
    /// It is ours.
    Fill(Lease),
    /// Load, and store nothing.
    Unstored,
    /// Another load has it, for at most so long.
    Wait(Duration),
}

/// A key, and the lease on it, if there is one.
pub(super) type Held<'a> = (&'a Key, Option<Lease>);

impl<V: Send + Sync + 'static> Core<V> {
    /// What to ask for the lease with, all the time.
    pub(super) fn asking_for(&self, want: Want) -> LeaseRequest {
        LeaseRequest {
            token: random(),
            ttl: self.options.lease_ttl,
            want,
        }
    }

    /// Asks for the lease; again at once, until then, if what L2 has cannot be read.
    pub(super) async fn take_turn(
        &self,
        op: &Op,
        ask: Option<&mut LeaseRequest>,
        until: Instant,
    ) -> Turn<V> {
        // An earlier load may have ended since the caller's look-up.
        if let Some(slot) = self.l1.get(op.key(), self.now()) {
            return Turn::Found(slot, Source::L1);
        }
        let Some(ask) = ask else {
            return Turn::Unstored;
        };
        // As an operation that now begins: a write may have been deferred since the look-up.
        if self.outbox.holds(op.key()) {
            return Turn::Unstored;
        }
        loop {
            match self.heard(self.lane.acquire_lease(op.key(), *ask).await) {
                Ok(LeaseReply::Hit(bytes)) => match self.open(op.key(), &bytes) {
                    Ok(fresh) => {
                        self.keep_or_outdate(op, &fresh);
                        return Turn::Found(fresh.slot, Source::L2);
                    }
                    Err(instead) => ask.want = instead,
                },
                Ok(LeaseReply::Granted(lease)) => return Turn::Fill(lease),
                Ok(LeaseReply::Wait(longest)) => {
                    if ask.want == Want::Nothing {
                        // What the other load fills may well be readable.
                        ask.want = Want::Any;
                    }
                    return Turn::Wait(longest);
                }
                Ok(LeaseReply::Hold | LeaseReply::Miss) | Err(_) => return Turn::Unstored,
            }
            if Instant::now() >= until {
                return Turn::Unstored;
            }
        }
    }

    /// Renews leases for as long as this is polled. That one was lost shows when it is used.
    pub(super) async fn keep(&self, leases: &[Held<'_>]) -> Infallible {
        let ttl = self.options.lease_ttl;
        loop {
            sleep(ttl / 3).await;
            let renewals = leases.iter().map(|&held| self.renew(held, ttl));
            join_all(renewals).await;
        }
    }

    /// Ends a lease, or leaves it for a while to keep others from loading.
    pub(super) async fn give_back(&self, held: Held<'_>) {
        // Otherwise it ends by itself.
        self.renew(held, Duration::ZERO).await;
    }

    async fn renew(&self, (key, lease): Held<'_>, ttl: Duration) {
        if let Some(lease) = lease {
            let _ = self.heard(self.lane.renew_lease(key, lease.token, ttl).await);
        }
    }
}
