//! A commit and its invalidation are one task: whatever becomes of the caller or the commit, the key is invalidated.

use std::future::pending;
use std::io;

use futures::{FutureExt, poll};
use larder::key::MAX_KEY_BYTES;
use larder::{Cache, CommitError};
use tokio::runtime::Builder;

use crate::fleet::{Fleet, Texts, over_both_stores, without_heartbeats};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    what_is_committed_is_invalidated,
    a_commit_that_fails_is_invalidated_too,
    a_cancelled_caller_comes_not_between_them,
);

/// Two instances that have an old value in their L1.
async fn pair(fleet: &Fleet) -> (Texts, Texts) {
    let ((a, _), (b, _)) = (fleet.instance().await, fleet.instance().await);
    a.insert("k", "old".to_owned()).await.unwrap();
    assert!(b.get("k").await.is_some());
    (a, b)
}

async fn gone(a: &Texts, b: &Texts) {
    assert!(a.get("k").await.is_none());
    eventually("the other has received it", || async {
        b.get_local("k").is_none()
    })
    .await;
    assert!(b.get("k").await.is_none());
}

async fn what_is_committed_is_invalidated(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    let commit = {
        let a = a.clone();
        async move {
            assert!(a.get_local("k").is_some(), "not before the commit");
            Ok::<_, io::Error>(7)
        }
    };
    assert_eq!(a.invalidate_after("k", commit).await.unwrap(), 7);
    gone(&a, &b).await;
}

async fn a_commit_that_fails_is_invalidated_too(fleet: Fleet) {
    for panics in [false, true] {
        let (a, b) = pair(&fleet).await;
        let commit = async move {
            assert!(!panics, "as planned");
            Err::<(), _>(io::Error::from(io::ErrorKind::TimedOut))
        };
        let error = a.invalidate_after("k", commit).await.unwrap_err();
        match &error {
            CommitError::Failed(error) => {
                assert!(!panics);
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            CommitError::Panicked(message) => assert!(panics && message.contains("as planned")),
            other => panic!("{other:?}"),
        }
        assert_eq!(std::error::Error::source(&error).is_some(), !panics);
        gone(&a, &b).await;
    }
}

async fn a_cancelled_caller_comes_not_between_them(fleet: Fleet) {
    let (a, b) = pair(&fleet).await;
    let gate = Gate::new();
    let commit = {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok::<_, io::Error>(())
        }
    };
    let call = a.invalidate_after("k", commit).now_or_never();
    assert!(call.is_none());
    gate.arrived(1).await;
    assert!(a.get_local("k").is_some());
    gate.open();
    eventually("it is invalidated", || async { b.get("k").await.is_none() }).await;
    gone(&a, &b).await;
}

/// What the commit has returned is not lost.
#[tokio::test]
async fn a_deferred_invalidation_keeps_what_was_committed() {
    let fleet = Fleet::memory();
    let (a, wire) = fleet.instance_with(without_heartbeats).await;
    let (b, _) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    wire.lose(Step::Invalidate, Way::Request, usize::MAX);
    let commit = async { Ok::<_, io::Error>("row 7") };
    let error = a.invalidate_after("k", commit).await.unwrap_err();
    let CommitError::NotInvalidated { value, error } = error else {
        panic!("{error:?}");
    };
    assert_eq!(value, "row 7");
    assert!(error.is_deferred());
    assert!(a.get("k").await.is_none());
    wire.lose(Step::Invalidate, Way::Request, 0);
    wire.cut();
    eventually("it is delivered", || async { b.get("k").await.is_none() }).await;
}

/// The commit may have landed, so the key must not be used until it is invalidated.
#[test]
fn a_commit_whose_runtime_ends_is_invalidated_later() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let fleet = Fleet::memory();
    let (a, _) = fleet.build(without_heartbeats);
    let (ends, driven) = (runtime(), runtime());
    let b = driven.block_on(async {
        let (b, _) = fleet.instance().await;
        b.insert("k", "old".to_owned()).await.unwrap();
        b
    });
    let mut call = Box::pin(a.invalidate_after("k", pending::<Result<(), io::Error>>()));
    ends.block_on(async {
        a.ready().await;
        assert!(poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    });
    drop(ends);
    driven.block_on(async {
        let error = call.await.unwrap_err();
        assert!(matches!(error, CommitError::Stopped), "{error:?}");
        assert_eq!(a.stats().writes_deferred, 1);
        a.get("other").await;
        eventually("it is delivered", || async { b.get("k").await.is_none() }).await;
    });
}

/// Nothing is cached under it; the commit is the caller's all the same.
#[tokio::test]
async fn the_commit_of_a_key_that_is_too_long_is_run() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    let long = "x".repeat(MAX_KEY_BYTES + 1);
    let commit = async { Ok::<_, io::Error>(7) };
    let error = cache
        .invalidate_after(long.as_str(), commit)
        .await
        .unwrap_err();
    let CommitError::NotInvalidated { value, error } = error else {
        panic!("{error:?}");
    };
    assert!(value == 7 && error.is_key_too_long());
    let commit = async { Err::<(), _>(io::Error::other("no")) };
    let error = cache
        .invalidate_after(long.as_str(), commit)
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::Failed(_)));
    let commit = async { panics() };
    let error = cache
        .invalidate_after(long.as_str(), commit)
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::Panicked(_)));
    // It goes on without its caller, too.
    let (gate, done) = (Gate::new(), Gate::new());
    let commit = {
        let (gate, done) = (gate.clone(), done.clone());
        async move {
            gate.pass().await;
            done.pass().await;
            Ok::<_, io::Error>(())
        }
    };
    assert!(
        cache
            .invalidate_after(long.as_str(), commit)
            .now_or_never()
            .is_none()
    );
    gate.open();
    done.arrived(1).await;
}

fn panics() -> io::Result<()> {
    panic!("as planned")
}

#[tokio::test]
async fn without_l2_it_is_gone_from_l1() {
    let cache: Texts = Cache::builder("test:text").build().unwrap();
    cache.insert("k", "old".to_owned()).await.unwrap();
    let commit = async { Ok::<_, io::Error>(()) };
    cache.invalidate_after("k", commit).await.unwrap();
    assert!(cache.get("k").await.is_none());
}

/// The time of the commit is not that of a write that waits for L2.
#[tokio::test]
async fn a_commit_may_take_longer_than_a_request() {
    let fleet = Fleet::memory();
    let (a, _) = fleet.instance_with(without_heartbeats).await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let gate = Gate::new();
    let commit = {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok::<_, io::Error>(())
        }
    };
    let call = tokio::spawn({
        let a = a.clone();
        async move { a.invalidate_after("k", commit).await }
    });
    gate.arrived(1).await;
    fleet.advance(std::time::Duration::from_secs(60));
    gate.open();
    call.await.unwrap().unwrap();
}
