//! A write of the source, and then of both levels: whatever fails or comes in between, no old value stays.

use std::io;
use std::sync::{Arc, Mutex};

use larder::{CommitError, Loaded, Token};
use tokio::runtime;
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, Source, Texts, over_both_stores, pair, received};
use crate::support::eventually::eventually;
use crate::support::network::{Gate, Step, Way};

over_both_stores!(
    what_is_written_is_in_both_levels_everywhere,
    a_store_that_fails_leaves_no_value,
    a_change_during_the_store_leaves_no_value,
    of_two_writes_at_once_the_value_of_the_last_commit_stays,
    a_load_that_began_before_is_not_stored,
    a_caller_that_is_cancelled_changes_nothing,
    a_value_that_cannot_be_stored_leaves_no_old_one,
    without_l2_the_key_is_not_used,
);

type Written = Result<Token, CommitError<(), io::Error>>;

/// What is written to.
#[derive(Clone, Default)]
struct Rows(Arc<Mutex<String>>);

impl Rows {
    /// Writes at once when it begins, and returns when the gate is open.
    async fn write(self, value: String, gate: Gate) -> Result<(), io::Error> {
        *self.0.lock().unwrap() = value;
        gate.pass().await;
        Ok(())
    }

    fn spawn(&self, cache: &Texts, value: &str, gate: &Gate) -> JoinHandle<Written> {
        let (rows, cache, gate) = (self.clone(), cache.clone(), gate.clone());
        let value = value.to_owned();
        tokio::spawn(async move {
            let store = |value: &String| rows.write(value.clone(), gate);
            cache.write_through("k", value, store).await
        })
    }

    fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

fn open() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

async fn what_is_written_is_in_both_levels_everywhere(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for cache in [&a, &b] {
        Source::new("old").through(cache, "k").await.unwrap();
    }
    let rows = Rows::default();
    rows.spawn(&a, "new", &open()).await.unwrap().unwrap();
    assert_eq!(rows.get(), "new");
    let found = a.get_local("k").unwrap();
    assert_eq!(
        (found.as_str(), found.meta().version().is_some()),
        ("new", true)
    );
    received(&b, 1).await;
    assert!(b.get_local("k").is_none());
    assert_eq!(*b.get("k").await.unwrap(), "new");
    let stats = a.stats();
    assert_eq!(
        (stats.writes_deferred, stats.loads),
        (0, 1),
        "it is no load"
    );
    // With options of its own.
    let tagged = Loaded::new("tagged".to_owned()).tags(["t"]);
    let store = |_: &String| async { Ok::<_, io::Error>(()) };
    a.write_through("k", tagged, store).await.unwrap();
    assert_eq!(*a.get("k").await.unwrap(), "tagged");
    a.invalidate_tag("t").await.unwrap();
    assert!(a.get("k").await.is_none());
}

async fn a_store_that_fails_leaves_no_value(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for (changes, cache) in [(1, &a), (2, &b)] {
        Source::new("old").through(cache, "k").await.unwrap();
        let failing = |_: &String| async { Err(io::Error::other("down")) };
        let written = a.write_through("k", "new".to_owned(), failing).await;
        assert!(matches!(written, Err(CommitError::Failed(error)) if error.to_string() == "down"));
        received(&b, changes).await;
        assert!(cache.get("k").await.is_none());
    }
    Source::new("old").through(&a, "k").await.unwrap();
    let panicking = |_: &String| async { panic!("a store panics, as planned") };
    let written: Written = a.write_through("k", "new".to_owned(), panicking).await;
    assert!(matches!(written, Err(CommitError::Panicked(text)) if text.contains("planned")));
    assert!(a.get("k").await.is_none());
}

async fn a_change_during_the_store_leaves_no_value(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    for inserts in [false, true] {
        let (rows, gate) = (Rows::default(), Gate::new());
        let writing = rows.spawn(&a, "ours", &gate);
        gate.arrived(1).await;
        if inserts {
            b.insert("k", "theirs".to_owned()).await.unwrap();
        } else {
            b.invalidate("k").await.unwrap();
        }
        gate.open();
        writing.await.unwrap().unwrap();
        for cache in [&a, &b] {
            eventually("it is gone", || async { cache.get("k").await.is_none() }).await;
        }
    }
}

/// The first has written to the source, and the second after it, before the first can store its value.
async fn of_two_writes_at_once_the_value_of_the_last_commit_stays(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (rows, first, second) = (Rows::default(), Gate::new(), Gate::new());
    let one = rows.spawn(&a, "one", &first);
    first.arrived(1).await;
    let two = rows.spawn(&b, "two", &second);
    second.arrived(1).await;
    second.open();
    two.await.unwrap().unwrap();
    first.open();
    one.await.unwrap().unwrap();
    for cache in [&a, &b] {
        let is_no_old_one = || async {
            let found = cache.get("k").await;
            found.is_none_or(|found| *found == "two")
        };
        eventually("the last one, or none", is_no_old_one).await;
    }
}

async fn a_load_that_began_before_is_not_stored(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    let (truth, loaded) = (Source::new("old"), Gate::new());
    let loading = truth.behind(&loaded).spawn(&b, "k");
    loaded.arrived(1).await;
    let rows = Rows::default();
    rows.spawn(&a, "new", &open()).await.unwrap().unwrap();
    loaded.open();
    loading.await.unwrap().unwrap();
    for cache in [&a, &b] {
        assert_eq!(*cache.get("k").await.unwrap(), "new");
    }
}

async fn a_caller_that_is_cancelled_changes_nothing(fleet: Fleet) {
    let ((a, _), (b, _)) = pair(&fleet).await;
    Source::new("old").through(&b, "k").await.unwrap();
    let (rows, gate) = (Rows::default(), Gate::new());
    let writing = rows.spawn(&a, "new", &gate);
    gate.arrived(1).await;
    writing.abort();
    gate.open();
    received(&b, 1).await;
    assert_eq!(*b.get("k").await.unwrap(), "new");
}

async fn a_value_that_cannot_be_stored_leaves_no_old_one(fleet: Fleet) {
    let (a, _) = fleet
        .instance_with(|builder| builder.max_value_size(100))
        .await;
    a.insert("k", "old".to_owned()).await.unwrap();
    let (rows, large) = (Rows::default(), "x".repeat(200));
    rows.spawn(&a, &large, &open()).await.unwrap().unwrap();
    assert_eq!(rows.get(), large);
    assert!(a.get("k").await.is_none());
    // Without a value there is nothing to write.
    let store = |_: &String| -> std::future::Ready<Result<(), io::Error>> {
        panic!("the source must not be written")
    };
    let written = a.write_through("k", Loaded::unchanged(), store).await;
    assert!(matches!(written, Err(CommitError::NotBegun(error)) if error.is_misuse()));
    let key = "k".repeat(2000);
    let store = |_: &String| std::future::ready(Ok::<_, io::Error>(()));
    let written = a.write_through(&key, "v".to_owned(), store).await;
    assert!(matches!(written, Err(CommitError::NotBegun(error)) if error.is_key_too_long()));
}

async fn without_l2_the_key_is_not_used(fleet: Fleet) {
    let (a, wire) = fleet.instance().await;
    a.insert("k", "old".to_owned()).await.unwrap();
    wire.lose(Step::AcquireLease, Way::Request, 1);
    wire.lose(Step::Invalidate, Way::Request, 1);
    let written = Rows::default().spawn(&a, "new", &open()).await.unwrap();
    assert!(
        matches!(written, Err(CommitError::NotInvalidated { error, .. }) if error.is_deferred())
    );
    assert!(a.get_local("k").is_none());
    eventually("it is delivered", || async { a.get("k").await.is_none() }).await;
    // The answer to the fill is lost: it may have landed.
    wire.lose(Step::Fill, Way::Reply, 1);
    let written = Rows::default().spawn(&a, "new", &open()).await.unwrap();
    written.unwrap();
    let found = a.get("k").await;
    assert!(found.is_none_or(|found| *found == "new"));
}

/// The value may be in the source.
#[test]
fn a_runtime_that_ends_during_the_store_defers_the_invalidation() {
    let fleet = Fleet::memory();
    let first = runtime::Runtime::new().unwrap();
    let (a, gate) = (first.block_on(fleet.instance()).0, Gate::new());
    first
        .block_on(a.insert("k", "old".to_owned()))
        .expect("it is stored");
    let writing = Rows::default();
    {
        let _entered = first.enter();
        drop(writing.spawn(&a, "new", &gate));
    }
    first.block_on(gate.arrived(1));
    drop(first);
    let second = runtime::Runtime::new().unwrap();
    second.block_on(async {
        a.ready().await;
        eventually("it is delivered", || async { a.get("k").await.is_none() }).await;
        assert!(a.stats().writes_deferred > 0);
    });
}
