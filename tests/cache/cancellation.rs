//! Every asynchronous call, cancelled at every point at which it can wait: afterwards the cache works as before.

use std::collections::HashSet;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::fleet::{Fleet, HOUR, Set, Source, Texts, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::{Gate, Network, Step, Way};

mod memory {
    #[tokio::test]
    async fn cancelling_after_any_poll_affects_no_other_caller() {
        super::cancelling_after_any_poll_affects_no_other_caller(super::Fleet::memory()).await;
    }
}

mod redis {
    #[tokio::test]
    #[ignore = "takes half a minute: sh tests/proof.sh tests"]
    async fn cancelling_after_any_poll_affects_no_other_caller() {
        super::cancelling_after_any_poll_affects_no_other_caller(super::Fleet::redis().await).await;
    }
}

/// Nothing that these tests wait for takes so long. On the store in memory it is over at once when
/// nothing moves any more.
const LIMIT: Duration = Duration::from_secs(10);
/// A call that makes no progress for so long waits for something outside of it.
const IDLE: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_millis(1);
const SOFT_TTL: Duration = Duration::from_secs(1);

/// What there is of the key when the call is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scene {
    /// Nothing at all.
    Missing,
    /// A value in L2 alone.
    Stored,
    /// A value in L2 and in all L1.
    Cached,
    /// A value in L2 that is to be replaced.
    Stale,
    /// Another instance is loading it.
    LoadedElsewhere,
    /// Another caller of this instance is loading it.
    LoadedHere,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Get,
    GetOrLoad,
    Insert,
    InsertMany,
    Invalidate,
    InvalidateMany,
    InvalidateAndWait,
    InvalidateAndHold,
    Clear,
    Ready,
    Close,
}

const MATRIX: [(Call, Scene); 17] = [
    (Call::Get, Scene::Missing),
    (Call::Get, Scene::Stored),
    (Call::GetOrLoad, Scene::Missing),
    (Call::GetOrLoad, Scene::Stored),
    (Call::GetOrLoad, Scene::Stale),
    (Call::GetOrLoad, Scene::LoadedElsewhere),
    (Call::GetOrLoad, Scene::LoadedHere),
    (Call::Insert, Scene::Cached),
    (Call::Insert, Scene::LoadedHere),
    (Call::InsertMany, Scene::Cached),
    (Call::Invalidate, Scene::Cached),
    (Call::InvalidateMany, Scene::Cached),
    (Call::InvalidateAndWait, Scene::Cached),
    (Call::InvalidateAndHold, Scene::Cached),
    (Call::Clear, Scene::Cached),
    (Call::Ready, Scene::Stored),
    (Call::Close, Scene::Cached),
];

/// Where requests of these calls can be held. No call subscribes: a task does, from when the cache is built.
const STEPS: [Step; 7] = [
    Step::Get,
    Step::AcquireLease,
    Step::Fill,
    Step::Insert,
    Step::Invalidate,
    Step::Clear,
    Step::Members,
];

impl Call {
    /// Whether it changes what is stored.
    fn writes(self) -> bool {
        use Call::{
            Clear, Insert, InsertMany, Invalidate, InvalidateAndHold, InvalidateAndWait,
            InvalidateMany,
        };
        matches!(
            self,
            Insert
                | InsertMany
                | Invalidate
                | InvalidateMany
                | InvalidateAndWait
                | InvalidateAndHold
                | Clear
        )
    }

    fn of(self, cache: &Texts, truth: &Source) -> BoxFuture<'static, ()> {
        let (cache, truth) = (cache.clone(), truth.clone());
        async move {
            match self {
                Self::Get => drop(cache.get("k").await),
                Self::GetOrLoad => drop(truth.through(&cache, "k").await.unwrap()),
                Self::Insert => drop(cache.insert("k", "new".to_owned()).await.unwrap()),
                Self::InsertMany => {
                    let entries = ["other", "k"].map(|key| (key, "new".to_owned()));
                    cache.insert_many(entries).await.unwrap();
                }
                Self::InvalidateMany => drop(cache.invalidate_many(["other", "k"]).await.unwrap()),
                Self::Invalidate => drop(cache.invalidate("k").await.unwrap()),
                Self::InvalidateAndWait => drop(cache.invalidate_and_wait("k").await.unwrap()),
                Self::InvalidateAndHold => {
                    cache.invalidate_and_hold("k", HOLD).await.unwrap();
                }
                Self::Clear => drop(cache.clear().await.unwrap()),
                Self::Ready => cache.ready().await,
                Self::Close => cache.close().await,
            }
        }
        .boxed()
    }
}

/// The instance that the call is made on, and another one.
struct Cell {
    name: String,
    call: Call,
    scene: Scene,
    a: Texts,
    wire: Network,
    b: Texts,
    truth: Source,
    /// Where the load that was under way waits.
    loader: Gate,
    /// Where the call is held.
    gate: Gate,
}

impl Cell {
    /// Nothing ends by itself: what is left behind is in the way for good.
    async fn set(fleet: &Fleet, (call, scene): (Call, Scene)) -> Self {
        let set = |builder: Set| {
            let builder = without_heartbeats(builder).lease_ttl(HOUR).lease_wait(HOUR);
            builder.load_timeout(HOUR).soft_ttl(SOFT_TTL).jitter(0.0)
        };
        if fleet.is_local() {
            // What the last cell has asked to be held is so no more.
            fleet.advance(HOLD);
        }
        let (a, wire) = fleet.build(set);
        let (b, _) = fleet.instance_with(set).await;
        if call != Call::Ready {
            a.ready().await;
        }
        let (truth, loader) = (Source::new("old"), Gate::new());
        b.invalidate("k").await.unwrap();
        match scene {
            Scene::Missing => {}
            Scene::Stored => drop(truth.through(&b, "k").await.unwrap()),
            Scene::Cached => {
                truth.through(&b, "k").await.unwrap();
                truth.through(&a, "k").await.unwrap();
            }
            Scene::Stale => {
                truth.through(&b, "k").await.unwrap();
                fleet.advance(SOFT_TTL);
                truth.set("new");
            }
            Scene::LoadedElsewhere | Scene::LoadedHere => {
                let by = if scene == Scene::LoadedHere { &a } else { &b };
                drop(truth.behind(&loader).spawn(by, "k"));
                loader.arrived(1).await;
            }
        }
        Self {
            name: format!("{call:?}, {scene:?}"),
            call,
            scene,
            a,
            wire,
            b,
            truth,
            loader,
            gate: Gate::new(),
        }
    }

    /// The call. A write comes after the change of the source, as in an application.
    fn call(&self) -> BoxFuture<'static, ()> {
        if self.call.writes() {
            self.truth.set("new");
        }
        self.call.of(&self.a, &self.truth)
    }

    /// The call has been cancelled; `overtaken` if the key is invalidated at the same time.
    async fn ends_whole(self, overtaken: bool) {
        let Self { name, a, b, .. } = &self;
        if overtaken {
            self.truth.set("new");
            b.invalidate("k").await.unwrap();
        }
        let loads = self.truth.loads();
        self.loader.open();
        self.gate.open();
        let value = async |cache: &Texts| self.truth.through(cache, "k").await.unwrap().to_string();
        let whole = async {
            if overtaken || self.call.writes() || self.scene == Scene::Stale {
                for cache in [a, b] {
                    eventually(name, || async { value(cache).await == "new" }).await;
                }
                // What was left behind comes to its end, and does not bring the old value back.
                for _ in 0..100 {
                    yield_now().await;
                }
                assert_eq!(value(a).await, "new", "{name}");
                assert_eq!(value(b).await, "new", "{name}");
            } else {
                assert_eq!(value(a).await, "old", "{name}");
                assert_eq!(value(b).await, "old", "{name}");
                assert!(self.truth.loads() <= loads.max(1), "{name}: loaded again");
            }
            a.close().await;
            b.close().await;
            for cache in [a, b] {
                eventually(name, || async { cache.left_over().is_empty() }).await;
            }
        };
        let whole = timeout(LIMIT, whole).await;
        assert!(whole.is_ok(), "{name}: something hangs");
        assert!(a.get_local("k").is_none(), "{name}: it is closed");
    }
}

/// What can be made on this store. Of one that is a server, time and idleness are its own affair.
fn rows(fleet: &Fleet) -> Vec<(Call, Scene)> {
    let mut rows = MATRIX.to_vec();
    if let Fleet::Redis { .. } = fleet {
        rows.retain(|(_, scene)| {
            !matches!(
                scene,
                Scene::Stale | Scene::LoadedElsewhere | Scene::LoadedHere
            )
        });
    } else {
        // So that a wait that would take forever is over at once.
        home::pause();
    }
    rows
}

/// Polls a call when it is woken, as a runtime does, and drops it after so many polls; or when it ends
/// or nothing wakes it any more, which shows in the number of polls.
async fn cancel(mut call: BoxFuture<'static, ()>, after: usize) -> usize {
    let mut polls = 0;
    let polling = poll_fn(|cx| {
        if polls < after {
            polls += 1;
            if call.as_mut().poll(cx).is_pending() && polls < after {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    });
    let _ = timeout(IDLE, polling).await;
    polls
}

async fn cancelling_after_any_poll_affects_no_other_caller(fleet: Fleet) {
    for (call, scene) in rows(&fleet) {
        for overtaken in [false, true] {
            for polls in 0.. {
                let mut cell = Cell::set(&fleet, (call, scene)).await;
                cell.name = format!("{} after {polls} polls", cell.name);
                let polled = cancel(cell.call(), polls).await;
                // A write that was never polled is not made: then another caller makes it.
                cell.ends_whole(overtaken || call.writes() && polled == 0)
                    .await;
                if polled < polls {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "takes twenty seconds: sh tests/proof.sh tests"]
async fn cancelling_in_any_request_affects_no_other_caller() {
    let fleet = Fleet::memory();
    let requests = STEPS.map(|step| [(step, Way::Request), (step, Way::Reply)]);
    let points: Vec<_> = requests
        .into_iter()
        .flatten()
        .map(Some)
        .chain([None])
        .collect();
    let mut met = HashSet::new();
    for row in rows(&fleet) {
        for &point in &points {
            for overtaken in [false, true] {
                let mut cell = Cell::set(&fleet, row).await;
                cell.name = format!("{} at {point:?}", cell.name);
                match point {
                    Some((step, way)) => cell.gate = cell.wire.close(step, way),
                    None => cell.truth = cell.truth.behind(&cell.gate),
                }
                let call = tokio::spawn(cell.call());
                let is_held = timeout(IDLE, cell.gate.arrived(1)).await.is_ok();
                call.abort();
                let failed = call.await.is_err_and(|error| error.is_panic());
                assert!(!failed, "{}", cell.name);
                cell.ends_whole(overtaken).await;
                if !is_held {
                    break;
                }
                met.insert(point);
            }
        }
    }
    assert_eq!(met.len(), points.len(), "only {met:?}");
}
