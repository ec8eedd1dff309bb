//! The database of a test, by each of the drivers.

use deadpool_postgres::Manager;
use larder::InvalidationBatch;
use larder_outbox::{MYSQL_TABLE, Outbox, POSTGRES_TABLE, RelayBuilder};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::{MySqlPool, PgPool, raw_sql};
use tokio_postgres::NoTls;

use crate::server::Kind;
use crate::tokio_postgres_table::Postgres;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    SqlxPostgres,
    TokioPostgres,
    SqlxMySql,
}

pub(crate) const DRIVERS: [Driver; 3] = [
    Driver::SqlxPostgres,
    Driver::TokioPostgres,
    Driver::SqlxMySql,
];

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    RollBack,
}

#[derive(Clone)]
pub(crate) enum Database {
    SqlxPostgres(PgPool),
    TokioPostgres(Postgres),
    SqlxMySql(MySqlPool),
}

const RAISE: &str = "UPDATE price SET cents = cents + 1 WHERE id = 'tea'";

impl Driver {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::SqlxPostgres | Self::TokioPostgres => Kind::Postgres,
            Self::SqlxMySql => Kind::MariaDb,
        }
    }

    /// Connects, with so many connections at most.
    pub(crate) async fn open(self, url: &str, most: u32) -> Database {
        match self {
            Self::SqlxPostgres => {
                let pool = PgPoolOptions::new().max_connections(most);
                Database::SqlxPostgres(pool.connect(url).await.unwrap())
            }
            Self::TokioPostgres => {
                let manager = Manager::new(url.parse().unwrap(), NoTls);
                let pool = deadpool_postgres::Pool::builder(manager).max_size(most as usize);
                Database::TokioPostgres(Postgres(pool.build().unwrap()))
            }
            Self::SqlxMySql => {
                let pool = MySqlPoolOptions::new().max_connections(most);
                Database::SqlxMySql(pool.connect(url).await.unwrap())
            }
        }
    }

    /// Connects, and creates the tables.
    pub(crate) async fn create(self, url: &str) -> Database {
        let db = self.open(url, 10).await;
        db.execute(match self.kind() {
            Kind::Postgres => POSTGRES_TABLE,
            Kind::MariaDb => MYSQL_TABLE,
        })
        .await;
        db.execute("CREATE TABLE price (id VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL)")
            .await;
        db.execute("INSERT INTO price VALUES ('tea', 1)").await;
        db
    }
}

impl Database {
    pub(crate) async fn execute(&self, sql: &'static str) {
        match self {
            Self::SqlxPostgres(pool) => drop(raw_sql(sql).execute(pool).await.unwrap()),
            Self::SqlxMySql(pool) => drop(raw_sql(sql).execute(pool).await.unwrap()),
            Self::TokioPostgres(table) => {
                let client = table.0.get().await.unwrap();
                client.batch_execute(sql).await.unwrap();
            }
        }
    }

    async fn number(&self, query: &'static str) -> i64 {
        match self {
            Self::SqlxPostgres(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
            Self::SqlxMySql(pool) => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
            Self::TokioPostgres(table) => {
                let client = table.0.get().await.unwrap();
                client.query_one(query, &[]).await.unwrap().get(0)
            }
        }
    }

    /// How many rows the outbox has.
    pub(crate) async fn rows(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM larder_outbox").await
    }

    pub(crate) async fn price(&self) -> i64 {
        let price = "SELECT cents FROM price WHERE id = 'tea'";
        self.number(price).await
    }

    pub(crate) fn relay(&self) -> RelayBuilder {
        match self {
            Self::SqlxPostgres(pool) => Outbox::new(pool.clone()).relay(),
            Self::SqlxMySql(pool) => Outbox::new(pool.clone()).relay(),
            Self::TokioPostgres(table) => Outbox::new(table.clone()).relay(),
        }
    }

    /// A transaction that raises the price of tea, and writes rows; nothing is invalidated after it.
    pub(crate) async fn change(&self, rows: &InvalidationBatch, end: End) {
        macro_rules! by_sqlx {
            ($pool:expr) => {{
                let mut tx = $pool.begin().await.unwrap();
                sqlx::query(RAISE).execute(&mut *tx).await.unwrap();
                let outbox = Outbox::new($pool.clone());
                outbox.insert(&mut tx, rows).await.unwrap();
                match end {
                    End::Commit => tx.commit().await.unwrap(),
                    End::RollBack => tx.rollback().await.unwrap(),
                }
            }};
        }
        match self {
            Self::SqlxPostgres(pool) => by_sqlx!(pool),
            Self::SqlxMySql(pool) => by_sqlx!(pool),
            Self::TokioPostgres(table) => {
                let mut client = table.0.get().await.unwrap();
                let mut tx = client.transaction().await.unwrap();
                tx.batch_execute(RAISE).await.unwrap();
                let outbox = Outbox::new(table.clone());
                outbox.insert(&mut tx, rows).await.unwrap();
                match end {
                    End::Commit => tx.commit().await.unwrap(),
                    End::RollBack => tx.rollback().await.unwrap(),
                }
            }
        }
    }

    /// The usual way: raises the price of tea, writes rows, commits, and invalidates.
    pub(crate) async fn commit(&self, changed: InvalidationBatch) {
        macro_rules! by_sqlx {
            ($pool:expr) => {{
                let mut tx = $pool.begin().await.unwrap();
                sqlx::query(RAISE).execute(&mut *tx).await.unwrap();
                let outbox = Outbox::new($pool.clone());
                outbox.commit(tx, changed).await.unwrap();
            }};
        }
        match self {
            Self::SqlxPostgres(pool) => by_sqlx!(pool),
            Self::SqlxMySql(pool) => by_sqlx!(pool),
            Self::TokioPostgres(_) => {
                let (db, rows) = (self.clone(), changed.clone());
                let commit = async move {
                    db.change(&rows, End::Commit).await;
                    Ok::<_, std::io::Error>(())
                };
                changed.invalidate_after(commit).await.unwrap();
            }
        }
    }
}
