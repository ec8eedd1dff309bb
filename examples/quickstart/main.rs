//! Three instances of a service share one cache. No server is needed:
//!
//! ```sh
//! cargo run -p quickstart
//! cargo run -p quickstart -- --redis redis://127.0.0.1:6379
//! ```
//!
//! It prints each step, and fails if a step does not do what it is meant to show.

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures::future::join_all;
use larder::{Cache, Entry, MemoryL2, RedisL2, Source};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    price_cents: u64,
}

/// The slow database behind the cache: one product, whose name can change.
#[derive(Clone, Default)]
struct Database {
    renamed: Arc<AtomicU32>,
    queries: Arc<AtomicU32>,
}

impl Database {
    const LATENCY: Duration = Duration::from_millis(50);

    async fn product(self) -> Result<Product, Infallible> {
        self.queries.fetch_add(1, SeqCst);
        let renamed = self.renamed.load(SeqCst);
        sleep(Self::LATENCY).await;
        Ok(Product {
            name: format!("Teapot, edition {}", renamed + 1),
            price_cents: 1995,
        })
    }

    fn rename(&self) {
        self.renamed.fetch_add(1, SeqCst);
    }

    fn queries(&self) -> u32 {
        self.queries.load(SeqCst)
    }
}

type Products = Cache<u64, Product>;
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What all instances share.
enum Shared {
    Memory(MemoryL2),
    Redis(String),
}

impl Shared {
    /// One instance of the service, as each process would build it.
    async fn instance(&self, namespace: &str, soft_ttl: Duration) -> Outcome<Products> {
        let builder = Cache::builder(namespace)
            .l1_ttl(Duration::from_secs(60))
            .soft_ttl(soft_ttl);
        let products: Products = match self {
            Self::Memory(l2) => builder.l2(l2.clone()),
            // With connections of its own: caches of one process would share them.
            Self::Redis(url) => builder.l2(RedisL2::open(url)?),
        }
        .build()?;
        tokio::time::timeout(Duration::from_secs(5), products.ready())
            .await
            .map_err(|_| "the Redis server does not answer; is the URL right, and is it version 7.0 or later?")?;
        Ok(products)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let redis = match arguments.as_slice() {
        [] => None,
        [option, url] if option == "--redis" => Some(url.as_str()),
        _ => {
            eprintln!("usage: quickstart [--redis URL]");
            return ExitCode::FAILURE;
        }
    };
    match run(redis).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(redis: Option<&str>) -> Outcome {
    let shared = match redis {
        Some(url) => Shared::Redis(url.to_owned()),
        None => Shared::Memory(MemoryL2::new()),
    };
    // Each run has a namespace of its own, so that it finds no keys of an earlier run.
    let run = std::process::id();
    let db = Database::default();
    let namespace = format!("quickstart-{run}:product");
    let ten_minutes = Duration::from_secs(600);
    let (a, b, c) = (
        shared.instance(&namespace, ten_minutes).await?,
        shared.instance(&namespace, ten_minutes).await?,
        shared.instance(&namespace, ten_minutes).await?,
    );

    println!(
        "Three instances, a, b and c, share a cache. The database takes {:?}.\n",
        Database::LATENCY
    );
    levels(&db, &a, &b).await?;
    stampede(&db, [&a, &b, &c]).await?;
    update(&db, [&a, &b, &c]).await?;
    let impatient = shared
        .instance(
            &format!("quickstart-{run}:impatient"),
            Duration::from_millis(200),
        )
        .await?;
    soft_ttl(&db, &impatient).await?;

    for instance in [a, b, c, impatient] {
        instance.close().await;
    }
    println!("All as promised: {} database queries in all.", db.queries());
    Ok(())
}

async fn levels(db: &Database, a: &Products, b: &Products) -> Outcome {
    println!("1. Product 42 is not cached yet");
    for (name, instance, expected) in [
        ("a", a, Source::Loader),
        ("b", b, Source::L2),
        ("b", b, Source::L1),
    ] {
        let asked = Instant::now();
        let product = look_up(db, instance, 42).await?;
        let from = match product.meta().source() {
            Source::L1 => "from its own memory (L1)",
            Source::L2 => "from the shared cache (L2)",
            _ => "loaded from the database",
        };
        println!(
            "   {name} looks it up: {:?}, {from}, {:?}",
            product.name,
            asked.elapsed()
        );
        assert_eq!(product.meta().source(), expected);
    }
    assert_eq!(db.queries(), 1);
    println!();
    Ok(())
}

async fn stampede(db: &Database, instances: [&Products; 3]) -> Outcome {
    println!("2. A hundred callers look up product 7 at once, on all three instances");
    let before = db.queries();
    let callers = (0..100)
        .zip(instances.into_iter().cycle())
        .map(|(_, instance)| look_up(db, instance, 7));
    let answers = join_all(callers).await;
    let all_same = answers
        .iter()
        .flatten()
        .filter(|product| product.name == "Teapot, edition 1")
        .count();
    let queries = db.queries() - before;
    println!("   {all_same} answers, {queries} database query\n");
    assert_eq!((all_same, queries), (100, 1));
    Ok(())
}

async fn update(db: &Database, [a, b, c]: [&Products; 3]) -> Outcome {
    println!("3. The product is renamed, and a invalidates it");
    for instance in [a, b, c] {
        look_up(db, instance, 42).await?;
        assert!(instance.get_local(&42).is_some(), "all have it in memory");
    }
    db.rename();
    a.invalidate(&42).await?;
    let invalidated = Instant::now();
    for (name, instance) in [("b", b), ("c", c)] {
        // The old copy is evicted when the message arrives: usually at once.
        while instance.get_local(&42).is_some() {
            assert!(
                invalidated.elapsed() < Duration::from_secs(2),
                "gone within max_staleness"
            );
            tokio::task::yield_now().await;
        }
        println!(
            "   {name} has dropped its copy, {:?} later",
            invalidated.elapsed()
        );
    }
    for (name, instance) in [("b", b), ("c", c)] {
        let product = look_up(db, instance, 42).await?;
        println!("   {name} returns {:?}", product.name);
        assert_eq!(product.name, "Teapot, edition 2");
    }
    assert_eq!(look_up(db, a, 42).await?.name, "Teapot, edition 2");
    println!();
    Ok(())
}

async fn soft_ttl(db: &Database, instance: &Products) -> Outcome {
    println!("4. The product turns stale: its soft TTL passes");
    look_up(db, instance, 42).await?;
    db.rename();
    let before = db.queries();
    sleep(Duration::from_millis(230)).await;

    let asked = Instant::now();
    let stale = look_up(db, instance, 42).await?;
    println!(
        "   the next caller gets {:?} after {:?}, flagged stale={}; it did not wait",
        stale.name,
        asked.elapsed(),
        stale.meta().is_stale()
    );
    assert!(stale.meta().is_stale());
    assert_eq!(stale.name, "Teapot, edition 2");

    let mut tries = 0;
    let fresh = loop {
        let product = look_up(db, instance, 42).await?;
        if product.name == "Teapot, edition 3" {
            break product;
        }
        tries += 1;
        assert!(tries < 1000, "the refresh ends");
        sleep(Duration::from_millis(5)).await;
    };
    println!(
        "   meanwhile it was loaded once more, in the background: {:?}\n",
        fresh.name
    );
    assert_eq!(db.queries() - before, 1);
    Ok(())
}

async fn look_up(db: &Database, instance: &Products, id: u64) -> Outcome<Entry<Product>> {
    let db = db.clone();
    Ok(instance.get_or_load(&id, move || db.product()).await?)
}
