//! Reads of several partitions at once, which share requests.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::future::join_all;
use larder::RedisL2;
use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::{L2, Partition, ReadResult};
use tokio::task::{JoinHandle, block_in_place};

use super::run;
use crate::store::*;
use crate::support::eventually::eventually;
use crate::support::proxy::{Kind, Line, Proxy, Way};
use crate::support::redis_server::RedisServer;

const PARTITIONS: usize = 20;
/// Reads of each partition.
const EACH: usize = 50;
const HASTY: Duration = Duration::from_millis(50);

/// Partitions of which each key has a value of its own, but for every third, which has none.
async fn filled_partitions(l2: &RedisL2) -> Vec<Arc<dyn Partition>> {
    let partitions: Vec<_> = (0..PARTITIONS)
        .map(|n| partition_of(l2, &format!("test:{n}")))
        .collect();
    for (n, partition) in partitions.iter().enumerate() {
        for key in (0..EACH).filter(|key| key % 3 != 0) {
            insert(&**partition, &key.to_string(), value(n, key).as_bytes()).await;
        }
    }
    partitions
}

fn value(partition: usize, key: usize) -> String {
    format!("{key} of partition {partition}!")
}

fn spawn_read(partition: &Arc<dyn Partition>, key: usize) -> JoinHandle<ReadResult> {
    let partition = Arc::clone(partition);
    tokio::spawn(async move { partition.get(&key.to_string()).await })
}

/// Reads so many keys of each partition, all at once and in turn. The answers of each partition are together.
async fn crowd(partitions: &[(&Arc<dyn Partition>, usize)]) -> Vec<Vec<ReadResult>> {
    let mut reads: Vec<Vec<_>> = partitions.iter().map(|_| Vec::new()).collect();
    for key in 0..EACH {
        for ((partition, keys), reads) in partitions.iter().zip(&mut reads) {
            if key < *keys {
                reads.push(spawn_read(partition, key));
            }
        }
    }
    let answers = reads.into_iter().map(async |reads| {
        let answers = join_all(reads).await.into_iter();
        answers.map(Result::unwrap).collect()
    });
    join_all(answers).await
}

/// How many requests with this command the server has carried out, or refused.
async fn count(raw: &mut MultiplexedConnection, command: &str, what: &str) -> u64 {
    let stats: String = run(raw, &["INFO", "commandstats"]).await;
    let prefix = format!("cmdstat_{command}:");
    let Some(line) = stats.lines().find_map(|line| line.strip_prefix(&prefix)) else {
        return 0;
    };
    let field = |field: &str| field.strip_prefix(what)?.strip_prefix('=')?.parse().ok();
    line.split(',').find_map(field).unwrap()
}

async fn reads_of(raw: &mut MultiplexedConnection) -> u64 {
    count(raw, "get", "calls").await + count(raw, "mget", "calls").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_gets_its_own_answers() {
    let Redis {
        server: _server,
        l2,
    } = Redis::start().await;
    let partitions = filled_partitions(&l2).await;
    let all: Vec<_> = partitions
        .iter()
        .map(|partition| (partition, EACH))
        .collect();
    for _ in 0..10 {
        for (n, answers) in crowd(&all).await.into_iter().enumerate() {
            assert_eq!(answers.len(), EACH);
            for (key, answer) in answers.into_iter().enumerate() {
                let bytes = answer.expect("it is answered");
                let expected = (key % 3 != 0).then(|| value(n, key));
                let is_own = |value: &String| bytes.as_ref().unwrap().ends_with(value.as_bytes());
                assert_eq!(bytes.is_some(), expected.is_some(), "{key} of {n}");
                assert!(expected.iter().all(is_own), "{key} of {n}");
            }
        }
    }
}

#[tokio::test]
async fn a_crowd_over_many_partitions_is_few_requests() {
    let Redis { server, l2 } = Redis::start().await;
    let partitions = filled_partitions(&l2).await;
    let all: Vec<_> = partitions
        .iter()
        .map(|partition| (partition, EACH))
        .collect();
    let mut raw = server.connection().await;
    // Each partition has its connections by then.
    crowd(&all).await;
    let before = reads_of(&mut raw).await;
    crowd(&all).await;
    let requests = reads_of(&mut raw).await - before;
    // A thousand keys. One request for each partition would be more.
    assert!((4..=10).contains(&requests), "{requests}");
}

#[tokio::test]
async fn keys_that_are_refused_are_no_concern_of_other_partitions() {
    let Redis { server, l2 } = Redis::start().await;
    let partitions = filled_partitions(&l2).await;
    let (allowed, refused) = (&partitions[0], &partitions[1]);
    crowd(&[(allowed, EACH), (refused, EACH)]).await;
    let mut raw = server.connection().await;
    let rights = [
        "ACL",
        "SETUSER",
        "default",
        "resetkeys",
        "~{test:0.0}*",
        "~{test:1.0}!*",
    ];
    let _: () = run(&mut raw, &rights).await;
    let answers = crowd(&[(allowed, EACH), (refused, EACH)]).await;
    assert!(answers[0].iter().all(Result::is_ok));
    for answer in &answers[1] {
        let error = answer.as_ref().expect_err("it may not be read");
        assert!(error.is_refused(), "{error:?}");
    }
    // From then on the partition asks by itself. One read of it is a GET, so a refused MGET would be one of both. The first
    // two reads go alone, and it is the third.
    let before = count(&mut raw, "mget", "rejected_calls").await;
    assert!(before > 0, "or this proves nothing");
    for _ in 0..10 {
        let answers = crowd(&[(allowed, EACH), (allowed, EACH), (refused, 1)]).await;
        assert!(answers[0].iter().all(Result::is_ok) && answers[2][0].is_err());
    }
    assert_eq!(count(&mut raw, "mget", "rejected_calls").await, before);
    // Until it is no longer refused.
    let _: () = run(&mut raw, &["ACL", "SETUSER", "default", "allkeys"]).await;
    let answers = crowd(&[(allowed, EACH), (refused, EACH)]).await;
    assert!(answers.iter().flatten().all(Result::is_ok));
}

/// The time limit of one partition is none of the other, whose reads are in the same requests.
#[tokio::test]
async fn a_hasty_partition_cuts_no_read_of_others_short() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let l2 = RedisL2::open(proxy.url()).unwrap();
    let calm = partition_of(&l2, "test:calm");
    let hasty: Arc<dyn Partition> = l2
        .partition("test:hasty".into(), HASTY, Box::new(|_| {}))
        .into();
    // Over the first connection, which both have then.
    assert!(calm.get("k").await.is_ok());
    eventually("it is connected", async || hasty.get("k").await.is_ok()).await;
    assert_eq!(proxy.connections(Kind::Data), 1);

    let mut raw = server.connection().await;
    let before = reads_of(&mut raw).await;
    proxy.set(Kind::Data, Way::FromRedis, Line::Held);
    // The first two go alone, the others in batches of both partitions.
    let mut calm_reads: Vec<_> = (0..EACH).map(|key| spawn_read(&calm, key)).collect();
    let hasty_reads: Vec<_> = (0..EACH).map(|key| spawn_read(&hasty, key)).collect();
    for read in hasty_reads {
        let answer = read.await.unwrap();
        assert!(answer.is_err_and(|error| error.is_timeout()));
    }
    // The hasty partition gives the connection up after its third time-out. A batch was the first.
    let mut reads = 0;
    while proxy.connections(Kind::Data) == 1 {
        reads += 1;
        assert!(reads <= 3, "no time-out of a batch was counted");
        assert!(hasty.get("k").await.is_err());
    }
    assert!(calm_reads.iter().all(|read| !read.is_finished()));
    proxy.heal();
    // Over the old connection, which had their requests before.
    for read in &mut calm_reads {
        assert!(read.await.unwrap().is_ok());
    }
    let requests = reads_of(&mut raw).await - before;
    assert!(requests < 10, "{requests}");
}

/// Its reads wait, and those that came with them do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_connects_delays_no_answers_of_others() {
    let Redis {
        server: _server,
        l2,
    } = Redis::start().await;
    let there = partition_of(&l2, "test:there");
    let (connect, may_connect) = mpsc::channel::<()>();
    let may_connect = Mutex::new(may_connect);
    let on_connect = move |_: &_| block_in_place(|| _ = may_connect.lock().unwrap().recv());
    let late: Arc<dyn Partition> = l2
        .partition("test:late".into(), LIMIT, Box::new(on_connect))
        .into();
    insert(&*there, "k", b"v").await;
    for _ in 0..10 {
        let waiting: Vec<_> = (0..5).map(|key| spawn_read(&late, key)).collect();
        let reads: Vec<_> = (0..EACH).map(|key| spawn_read(&there, key)).collect();
        let more = (0..5).map(|key| spawn_read(&late, key));
        let waiting: Vec<_> = waiting.into_iter().chain(more).collect();
        for read in reads {
            assert!(read.await.unwrap().is_ok());
        }
        assert!(waiting.iter().all(|read| !read.is_finished()));
    }
    drop(connect);
    eventually("it has connected", async || late.get("k").await.is_ok()).await;
}
