//! Keys and tags of several caches that are invalidated together.

use std::future::pending;
use std::io;

use futures::{FutureExt, poll};
use larder::key::MAX_KEY_BYTES;
use larder::{Cache, CommitError, InvalidationBatch, Loaded, MemoryL2};
use tokio::runtime::Builder;

use crate::fleet::{HOUR, UNHURRIED};
use crate::support::eventually::eventually;
use crate::support::home;
use crate::support::network::Gate;

type Users = Cache<u64, String>;
type Pages = Cache<String, String>;

/// An instance with two caches.
struct Service {
    users: Users,
    pages: Pages,
}

impl Service {
    fn on(l2: impl larder::l2::L2 + Clone) -> Self {
        // Without heartbeats after the first.
        let users = Cache::builder("test:user")
            .l2(l2.clone())
            .l2_timeout(UNHURRIED);
        let pages = Cache::builder("test:page").l2(l2).l2_timeout(UNHURRIED);
        Self {
            users: users.max_staleness(HOUR).build().unwrap(),
            pages: pages.max_staleness(HOUR).build().unwrap(),
        }
    }

    async fn ready(self) -> Self {
        self.users.ready().await;
        self.pages.ready().await;
        self
    }

    /// Stores a user, the page of the user, and a page without tags.
    async fn fill(&self) {
        self.users.insert(&7, "Ann".to_owned()).await.unwrap();
        let page = Loaded::new("of Ann".to_owned()).tags([("user", 7)]);
        self.pages.insert("/ann", page).await.unwrap();
        self.pages.insert("/", "home".to_owned()).await.unwrap();
    }

    /// How many of these are there.
    async fn held(&self) -> usize {
        let pages = [self.pages.get("/ann").await, self.pages.get("/").await];
        let pages = pages.iter().flatten().count();
        pages + usize::from(self.users.get(&7).await.is_some())
    }

    fn changed(&self) -> InvalidationBatch {
        let changed = InvalidationBatch::new().key(&self.users, &7);
        changed
            .tag(&self.pages, &("user", 7))
            .keys(&self.pages, ["/", "/other"])
    }
}

#[tokio::test]
async fn all_are_gone_from_each_instance() {
    let server = home::start_with(&[]).await;
    let l2 = || home::open(server.url());
    let (a, b) = (
        Service::on(l2()).ready().await,
        Service::on(l2()).ready().await,
    );
    for round in 0..2 {
        a.fill().await;
        assert_eq!(b.held().await, 3);
        if round == 0 {
            a.changed().invalidate().await.unwrap();
        } else {
            let commit = async { Ok::<_, io::Error>(7) };
            assert_eq!(a.changed().invalidate_after(commit).await.unwrap(), 7);
        }
        assert_eq!(a.held().await, 0);
        eventually("the other has received it", async || b.held().await == 0).await;
    }
    assert!(InvalidationBatch::new().is_empty() && !a.changed().is_empty());
    InvalidationBatch::new().invalidate().await.unwrap();
}

#[tokio::test]
async fn a_cancelled_caller_comes_not_between_them() {
    let a = Service::on(MemoryL2::new()).ready().await;
    a.fill().await;
    let gate = Gate::new();
    let commit = {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok::<_, io::Error>(())
        }
    };
    assert!(
        a.changed()
            .invalidate_after(commit)
            .now_or_never()
            .is_none()
    );
    gate.arrived(1).await;
    assert_eq!(a.held().await, 3);
    gate.open();
    eventually("all are invalidated", async || a.held().await == 0).await;
}

/// More than are sent at a time.
#[tokio::test]
async fn a_call_that_is_dropped_leaves_none_out() {
    let a = Service::on(MemoryL2::new()).ready().await;
    let all: Vec<u64> = (0..2_000).collect();
    let users = all.iter().map(|id| (id, "Ann".to_owned()));
    a.users.insert_many(users).await.unwrap();
    let changed = InvalidationBatch::new().keys(&a.users, &all);
    assert!(changed.invalidate().now_or_never().is_none());
    eventually("all are invalidated", async || {
        a.users.get_many(&all).await.iter().flatten().count() == 0
    })
    .await;
}

/// The commit may have landed, so nothing that it is for may be used until it is invalidated.
#[test]
fn what_a_runtime_leaves_is_deferred() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (l2, ends, driven) = (MemoryL2::new(), runtime(), runtime());
    let a = Service::on(l2.clone());
    let b = driven.block_on(Service::on(l2).ready());
    driven.block_on(b.fill());
    let call = a
        .changed()
        .invalidate_after(pending::<Result<(), io::Error>>());
    let mut call = Box::pin(call);
    ends.block_on(async {
        a.users.ready().await;
        a.pages.ready().await;
        assert!(poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    });
    drop(ends);
    driven.block_on(async {
        let error = call.await.unwrap_err();
        assert!(matches!(error, CommitError::Stopped), "{error:?}");
        let deferred = [a.users.stats(), a.pages.stats()].map(|stats| stats.writes_deferred);
        assert_eq!(deferred, [1, 3]);
        // Starts the subscribers again.
        a.users.get(&1).await;
        a.pages.get("/other").await;
        eventually("all are delivered", async || b.held().await == 0).await;
    });
}

#[tokio::test]
async fn one_that_is_too_long_is_an_error_beside_the_others() {
    let a = Service::on(MemoryL2::new()).ready().await;
    a.fill().await;
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    let changed = || a.changed().key(&a.pages, long.as_str());
    assert!(!InvalidationBatch::new().tag(&a.pages, &long).is_empty());
    let error = changed().invalidate().await.unwrap_err();
    assert!(error.is_key_too_long() && a.held().await == 0);
    a.fill().await;
    let commit = async { Ok::<_, io::Error>(7) };
    let error = changed().invalidate_after(commit).await.unwrap_err();
    let CommitError::NotInvalidated { value, error } = error else {
        panic!("{error:?}");
    };
    assert!(value == 7 && error.is_key_too_long());
    assert_eq!(a.held().await, 0);
}

#[tokio::test]
async fn an_l2_that_is_away_is_an_error_that_is_deferred() {
    let l2 = MemoryL2::new();
    let (a, b) = (
        Service::on(l2.clone()).ready().await,
        Service::on(l2.clone()).ready().await,
    );
    a.fill().await;
    l2.set_reachable(false);
    let error = a.changed().invalidate().await.unwrap_err();
    assert!(error.is_deferred() && a.held().await == 0);
    l2.set_reachable(true);
    eventually("all are delivered", async || b.held().await == 0).await;
}

#[tokio::test]
async fn it_shows_no_key() {
    let a = Service::on(MemoryL2::new());
    let shown = format!("{:?}", a.changed());
    assert_eq!(shown, r#"{"test:user": 1, "test:page": 3}"#);
}
