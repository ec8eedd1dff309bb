//! An outbox in `PostgreSQL` by tokio-postgres, a driver that the crate does not know.
//!
//! ```sh
//! DATABASE_URL=postgres://localhost/shop REDIS_URL=redis://localhost cargo run -p tokio_postgres_outbox
//! ```

#[path = "../../crates/larder-outbox/src/tokio_postgres.rs"]
mod table;

use std::env;
use std::error::Error;

use deadpool_postgres::{Manager, Pool};
use larder::{Cache, Caches, InvalidationBatch, OrDeferred as _, ServiceSettings};
use larder_outbox::{Outbox, POSTGRES_TABLE};
use tokio_postgres::NoTls;

use crate::table::Postgres;

struct Shop {
    db: Pool,
    outbox: Outbox<Postgres>,
    products: Cache<i64, String>,
    pages: Cache<String, String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let manager = Manager::new(env::var("DATABASE_URL")?.parse()?, NoTls);
    let db = Pool::builder(manager).build()?;
    let client = db.get().await?;
    client.batch_execute(POSTGRES_TABLE).await?;
    let table = "CREATE TABLE IF NOT EXISTS product (id BIGINT PRIMARY KEY, name TEXT NOT NULL)";
    client.batch_execute(table).await?;

    let caches = Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?;
    let outbox = Outbox::new(Postgres(db.clone()));
    let shop = Shop {
        products: caches.cache("product").build()?,
        pages: caches.cache("page").build()?,
        db,
        outbox: outbox.clone(),
    };
    let relay = outbox.relay().caches(&caches).start()?;
    shop.rename(7, "green tea").await?;

    drop(relay);
    caches.close().await;
    Ok(())
}

impl Shop {
    /// A handler. If its client disconnects, the transaction goes on, and so does the invalidation.
    async fn rename(&self, id: i64, name: &'static str) -> Result<(), Box<dyn Error>> {
        let changed = InvalidationBatch::new()
            .key(&self.products, &id)
            .tag(&self.pages, &("product", id));
        let (db, outbox, rows) = (self.db.clone(), self.outbox.clone(), changed.clone());
        let transaction = async move {
            let mut client = db.get().await?;
            let mut tx = client.transaction().await?;
            let upsert = "INSERT INTO product VALUES ($1, $2)
                ON CONFLICT (id) DO UPDATE SET name = excluded.name";
            tx.execute(upsert, &[&id, &name]).await?;
            outbox.insert(&mut tx, &rows).await?;
            tx.commit().await?;
            Ok::<_, Failure>(())
        };
        // Deferred is as good as done: the rows stay until Redis has accepted the invalidations.
        let done = changed.invalidate_after(transaction).await;
        Ok(done.or_deferred()?)
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the pool has no connection")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("the database has failed")]
    Database(#[from] tokio_postgres::Error),
    #[error("the outbox has failed")]
    Outbox(#[from] larder_outbox::OutboxError),
}
