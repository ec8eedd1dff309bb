//! An outbox in `PostgreSQL`, by sqlx: the handlers of a service, and its one relay. It runs if `DATABASE_URL` is set,
//! and creates two tables there.

use std::env;
use std::error::Error;

use larder::{Cache, Caches, InvalidationBatch, MemoryL2, ServiceSettings};
use larder_outbox::{Outbox, POSTGRES_TABLE};
use sqlx::PgPool;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL")?;
    // No server knows of the pause.
    tokio::time::resume();
    run_on(&url).await
}

struct Shop {
    db: PgPool,
    outbox: Outbox<PgPool>,
    products: Cache<i64, String>,
    pages: Cache<String, String>,
}

/// The tests of the repository call it with a server of their own.
pub(crate) async fn run_on(url: &str) -> Result<(), Box<dyn Error>> {
    let db = PgPool::connect(url).await?;
    // By a migration, in a service.
    sqlx::raw_sql(POSTGRES_TABLE).execute(&db).await?;
    let table = "CREATE TABLE IF NOT EXISTS product (id BIGINT PRIMARY KEY, name TEXT NOT NULL)";
    sqlx::raw_sql(table).execute(&db).await?;

    // In a service: `Caches::new("shop", ServiceSettings::from_env("CACHE_")?)?`.
    let caches = Caches::with_l2("shop", ServiceSettings::default(), MemoryL2::new());
    let shop = Shop {
        outbox: Outbox::new(db.clone()),
        db,
        products: caches.cache("product").build()?,
        pages: caches.cache("page").build()?,
    };
    // One for all caches, in each instance.
    let relay = shop.outbox.relay().caches(&caches).start()?;

    shop.rename(7, "tea").await?;
    assert_eq!(*shop.product(7).await?, "tea");
    shop.rename(7, "green tea").await?;
    assert_eq!(*shop.product(7).await?, "green tea");

    drop(relay);
    caches.close().await;
    Ok(())
}

impl Shop {
    async fn product(&self, id: i64) -> Result<larder::Entry<String>, larder::LoadError> {
        let db = self.db.clone();
        let load = async move || {
            let select = sqlx::query_scalar("SELECT name FROM product WHERE id = $1");
            select.bind(id).fetch_one(&db).await
        };
        self.products.get_or_load(&id, load).await
    }

    /// If the client disconnects during the commit, both caches are invalidated all the same. If the process dies, the
    /// relay of any instance does it.
    async fn rename(&self, id: i64, name: &str) -> Result<(), Box<dyn Error>> {
        let mut tx = self.db.begin().await?;
        let upsert = "INSERT INTO product VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET name = excluded.name";
        let upsert = sqlx::query(upsert).bind(id).bind(name);
        upsert.execute(&mut *tx).await?;
        let changed = InvalidationBatch::new()
            .key(&self.products, &id)
            .tag(&self.pages, &("product", id));
        self.outbox.commit(tx, changed).await?;
        Ok(())
    }
}
