//! The stream of writes and the dead letters in Redis: what other programs add there, and what is left behind.

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::cmd;
use larder::l2::{
    Append, Kind, LeaseReply, Partition, Pending, Settled, StreamId, Waiting, Written,
};
use larder_store_tests::steps::Steps;

use super::{own_key, run, value_key};
use crate::store::*;

/// The last time in an id that is one: the version of a later one would not fit an `i64`.
const LATEST: u64 = (1 << 43) - 1;

type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

async fn append(partition: &dyn Partition, key: &str, payload: &[u8]) {
    let append = Append {
        encoded_key: format!("<{key}>").into_bytes(),
        most: 100,
        version: None,
    };
    let (value, message) = (sealed(payload), payload_of(Kind::Insert, &[key]));
    let appended = partition.append(key, &value, append, &message, None).await;
    assert!(matches!(appended.unwrap(), Written::Done(_)));
}

async fn pending(partition: &dyn Partition) -> Pending {
    write_stream(partition).pending().await.unwrap()
}

async fn requeue(partition: &dyn Partition, letter: &Waiting) -> bool {
    let payload = payload_of(Kind::Invalidate, &[&letter.key]);
    write_stream(partition)
        .requeue(letter, &payload)
        .await
        .unwrap()
}

/// Adds an entry as another program does.
async fn add(raw: &mut MultiplexedConnection, name: &str, id: &str, fields: &[&str]) {
    let key = own_key(name);
    let _: String = run(raw, &[&["XADD", &*key, id][..], fields].concat()).await;
}

async fn entries(raw: &mut MultiplexedConnection, name: &str) -> Entries {
    run(raw, &["XRANGE", &own_key(name), "-", "+"]).await
}

/// No id follows that of another program, or none that is a time: its entry goes with the next write, and nothing else
/// does.
#[tokio::test]
async fn an_entry_of_another_program_does_not_end_the_stream() {
    let last = format!("{0}-{0}", u64::MAX);
    let beyond = format!("{}-0", LATEST + 1);
    let future = "8000000000000-0".to_owned();
    for foreign in [&last, &beyond] {
        for before in [&[][..], &[&future][..]] {
            for own in [0, 1, 3] {
                let store = Redis::start().await;
                let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
                // Ids go on above what was settled, too.
                append(partition, "settled", b"v").await;
                let settled = take_writes(partition).await;
                assert!(settle_writes(partition, &settled, Ok(&[])).await);
                for n in 0..own {
                    append(partition, &format!("own {n}"), format!("v{n}").as_bytes()).await;
                }
                for id in before {
                    add(&mut raw, "writes", id, &["k", "x", "other", "y", "i", ""]).await;
                }
                let kept = entries(&mut raw, "writes").await;
                add(&mut raw, "writes", foreign, &["k", "foreign"]).await;
                let known = take_writes(partition).await;
                assert_eq!(known.len(), kept.len(), "it is not for the worker");
                let last_known = known.last().map(|write| write.id);
                assert_eq!(pending(partition).await.last, last_known);
                assert_eq!(
                    pending(partition).await.first,
                    known.first().map(|write| write.id)
                );

                append(partition, "k", b"new").await;
                let mut now = entries(&mut raw, "writes").await;
                now.pop();
                assert_eq!(now, kept, "{foreign}");
                let waiting = take_writes(partition).await;
                assert_eq!(waiting[..known.len()], known);
                let new = waiting.last().unwrap();
                assert_eq!((&*new.key, &*new.encoded_key), ("k", &b"<k>"[..]));
                assert_eq!((waiting.len(), new.version), (known.len() + 1, new.id));
                assert!(new.id > settled[0].id && Some(new.id) > last_known);
                assert!(new.id.ms <= LATEST, "{:?}", new.id);
                // The next one follows without that.
                append(partition, "k", b"newer").await;
                assert_eq!(take_writes(partition).await[..waiting.len()], waiting);
            }
        }
    }
}

/// An id of the last time is one, and another one follows it.
#[tokio::test]
async fn the_last_time_in_an_id_is_one() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    add(&mut raw, "writes", &format!("{LATEST}-5"), &["k", "x"]).await;
    append(partition, "k", b"v").await;
    let ids = take_writes(partition)
        .await
        .into_iter()
        .map(|write| write.id);
    let expected = [5, 6].map(|number| StreamId { ms: LATEST, number });
    assert_eq!(ids.collect::<Vec<_>>(), expected);
    assert_eq!(pending(partition).await.last, Some(expected[1]));
}

/// Also of dead letters, which other programs can read and write.
#[tokio::test]
async fn what_is_pending_is_said_of_the_stream_and_of_the_dead_letters() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    let _ = subscribe(partition).await;
    let clock = own_key("clock");
    let incarnation: String = run(&mut raw, &["HGET", &clock, "run"]).await;
    let empty = pending(partition).await;
    assert_eq!((empty.length, empty.dead_letters), (0, 0));
    assert_eq!(
        (empty.first, empty.last, empty.last_dead),
        (None, None, None)
    );
    assert_eq!(
        (&empty.history, empty.has_worker),
        (&format!("{incarnation} "), false)
    );

    for key in ["a", "b", "c", "d", "e"] {
        append(partition, key, b"v").await;
    }
    let waiting = take_writes(partition).await;
    assert!(settle_writes(partition, &waiting[..2], Err("why")).await);
    let letters = write_stream(partition).dead_letters(10).await.unwrap();
    let ids = letters.iter().map(|letter| letter.version);
    assert!(ids.eq(waiting[..2].iter().map(|write| write.id)));
    add(
        &mut raw,
        "dead",
        &format!("{}-0", LATEST + 1),
        &["k", "foreign"],
    )
    .await;
    let name: String = run(&mut raw, &["HGET", &clock, "writes"]).await;
    let found = pending(partition).await;
    assert_eq!((found.length, found.dead_letters), (3, 3));
    let ids = (
        Some(waiting[2].id),
        Some(waiting[4].id),
        Some(letters[1].id),
    );
    assert_eq!((found.first, found.last, found.last_dead), ids);
    assert_eq!(
        (&found.history, found.has_worker),
        (&format!("{incarnation} {name}"), true)
    );
    assert!(!name.is_empty());

    // It keeps its name while it lasts; the next stream has another one.
    append(partition, "f", b"v").await;
    assert_eq!(pending(partition).await.history, found.history);
    let _: i64 = run(&mut raw, &["DEL", &own_key("writes")]).await;
    assert_eq!(pending(partition).await.history, format!("{incarnation} "));
    append(partition, "f", b"v").await;
    let next = pending(partition).await.history;
    assert!(
        next.starts_with(&format!("{incarnation} ")) && next != found.history,
        "{next}"
    );
}

/// An answer of more would not come in time.
#[tokio::test]
async fn the_first_entries_are_bounded_by_their_number_and_their_bytes() {
    let store = Redis::start().await;
    let mut raw = store.server.connection().await;
    for n in 1..=5 {
        // Ten bytes of names and values.
        add(
            &mut raw,
            "dead",
            &format!("{n}-0"),
            &["k", "abcd", "i", "efgh"],
        )
        .await;
    }
    let script = [
        include_str!("../../../src/l2/redis/lua/parts/stream.lua"),
        include_str!("../../../src/l2/redis/lua/dead_letters.lua"),
    ];
    for (most, bytes, many) in [
        (0, 100, 0),
        (1, 100, 1),
        (5, 100, 5),
        (6, 100, 5),
        (3, 100, 3),
        (5, 0, 0),
        (5, 1, 1),
        (5, 10, 1),
        (5, 11, 2),
        (5, 20, 2),
        (5, 41, 5),
    ] {
        let mut eval = cmd("EVAL");
        eval.arg(script.concat()).arg(1).arg(own_key("dead"));
        let found: Entries = eval
            .arg(most)
            .arg(bytes)
            .query_async(&mut raw)
            .await
            .unwrap();
        let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
        let expected = ["1-0", "2-0", "3-0", "4-0", "5-0"];
        assert_eq!(ids, expected[..many], "{most} entries, {bytes} bytes");
    }
}

/// In the step that puts it back: what is stored under its key is older than it will be in the source.
#[tokio::test]
async fn a_dead_letter_that_waits_again_is_a_write_like_any_other() {
    for is_held in [false, true] {
        let store = Redis::start().await;
        let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
        append(partition, "k", b"v").await;
        let first = take_writes(partition).await;
        assert!(settle_writes(partition, &first, Err("why")).await);
        let letter = &write_stream(partition).dead_letters(10).await.unwrap()[0];
        let payload = payload_of(Kind::Invalidate, &["k"]);
        let lease = granted(partition, "k").await;
        insert(partition, "k", b"other").await;
        if is_held {
            partition.invalidate(&["k"], &payload, LONG).await.unwrap();
            insert(partition, "k", b"other").await;
        }
        let _: () = run(
            &mut raw,
            &["SET", &own_key("lease:k"), &lease.token.to_string()],
        )
        .await;
        let (_, mut subscription) = subscribe(partition).await;
        let before: String = run(&mut raw, &["HGET", &own_key("clock"), "writes"]).await;
        let _: i64 = run(&mut raw, &["DEL", &own_key("writes")]).await;

        assert!(requeue(partition, letter).await);
        let sent = message(&mut *subscription).await;
        assert_eq!((sent.kind, &*sent.keys[0]), (Kind::Invalidate, "k"));
        let log = partition.replay(sent.seq).await.unwrap();
        assert_eq!(log, [sent]);
        let gone = [value_key("k"), own_key("lease:k"), own_key("dead")];
        for key in &gone[..2] {
            assert_eq!(run::<u64>(&mut raw, &["EXISTS", key]).await, 0, "{key}");
        }
        assert_eq!(pending(partition).await.dead_letters, 0);
        let after: String = run(&mut raw, &["HGET", &own_key("clock"), "writes"]).await;
        assert_ne!(before, after, "the stream has begun anew");

        let again = take_writes(partition).await;
        assert_eq!((again.len(), again[0].version), (1, first[0].id));
        assert_eq!(again[0].body, first[0].body);
        assert_eq!((&*again[0].key, &*again[0].encoded_key), ("k", &b"<k>"[..]));
        // The mark names no value, as none was stored with it.
        let mark: String = run(&mut raw, &["GET", &own_key("hold:k")]).await;
        let parts: Vec<&str> = mark.split(':').collect();
        let StreamId { ms, number } = again[0].id;
        assert_eq!(
            (parts[0], &parts[2..]),
            (&*format!("W{ms}-{number}"), &["0", "0"][..])
        );
        assert_eq!(parts[1] != "0", is_held, "{mark}");
        assert!(settle_writes(partition, &again, Ok(&[])).await);
        let led = acquire_lease(partition, "k").await;
        assert_eq!(led == LeaseReply::Hold, is_held, "{led:?}");
    }
}

/// Another program has left out what it did not know: its entry is ordered by its id.
#[tokio::test]
async fn a_dead_letter_without_a_number_is_ordered_by_its_id() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    for (number, fields) in [(1, &["k", "k"][..]), (2, &["k", "k", "v", "x"])] {
        let id = StreamId { ms: 7, number };
        add(&mut raw, "dead", &format!("7-{number}"), fields).await;
        let letters = write_stream(partition).dead_letters(10).await.unwrap();
        assert_eq!((letters.len(), letters[0].version), (1, id));
        // It may be the first step after the clock was lost.
        let _: i64 = run(&mut raw, &["DEL", &own_key("clock")]).await;
        assert!(requeue(partition, &letters[0]).await);
        let waiting = take_writes(partition).await;
        assert_eq!((waiting.len(), waiting[0].version), (1, id));
        assert!(settle_writes(partition, &waiting, Ok(&[])).await);
    }
}

/// A right that is missing costs no letter.
#[tokio::test]
async fn dead_letters_outlast_one_that_cannot_be_added() {
    let store = Redis::start().await;
    let (partition, mut raw) = (&*store.partition(), store.server.connection().await);
    for key in ["a", "b"] {
        append(partition, key, b"v").await;
    }
    let waiting = take_writes(partition).await;
    assert!(settle_writes(partition, &waiting[..1], Err("why")).await);
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "-xadd"]).await;
    let settled = Settled {
        writes: &[&waiting[1]],
        outcome: Err("why"),
        origin: ORIGIN,
    };
    let refused = write_stream(partition).settle(FENCE, settled).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "+xadd"]).await;
    let found = pending(partition).await;
    assert_eq!((found.length, found.dead_letters), (1, 1));
}
