// No module of this crate: its documentation shows this file, and examples/tokio_postgres compiles it.
use std::error::Error;

use deadpool_postgres::Pool;
use futures::future::BoxFuture;
use larder_outbox::{Namespaces, NewRow, OutboxTable, Row};
use tokio_postgres::Transaction;

#[derive(Clone)]
pub(crate) struct Postgres(pub(crate) Pool);

type BoxError = Box<dyn Error + Send + Sync>;

impl OutboxTable for Postgres {
    type Transaction<'t> = Transaction<'t>;

    fn insert<'a>(
        tx: &'a mut Self::Transaction<'_>,
        rows: &'a [NewRow],
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            let insert = "INSERT INTO larder_outbox (namespace, kind, name, written_ms)
                SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])";
            let namespaces: Vec<&str> = rows.iter().map(|row| &*row.namespace).collect();
            let kinds: Vec<&str> = rows.iter().map(|row| row.kind).collect();
            let names: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
            let times: Vec<i64> = rows.iter().map(|row| row.written_ms).collect();
            tx.execute(insert, &[&namespaces, &kinds, &names, &times])
                .await?;
            Ok(())
        })
    }

    async fn read(&self, of: Namespaces<'_>, limit: u32) -> Result<Vec<Row>, BoxError> {
        let (test, namespaces) = match of {
            Namespaces::In(namespaces) => ("= ANY ($1)", namespaces),
            Namespaces::NotIn(namespaces) => ("<> ALL ($1)", namespaces),
        };
        let read = format!(
            "SELECT id, namespace, kind, name, written_ms FROM larder_outbox
            WHERE namespace {test} AND kind IN ('key', 'tag') ORDER BY id LIMIT {limit}"
        );
        let rows = self.0.get().await?.query(&read, &[&namespaces]).await?;
        let row = |row: &tokio_postgres::Row| {
            Ok(Row {
                id: row.try_get(0)?,
                namespace: row.try_get(1)?,
                kind: row.try_get(2)?,
                name: row.try_get(3)?,
                written_ms: row.try_get(4)?,
            })
        };
        rows.iter().map(row).collect()
    }

    async fn delete(&self, ids: &[i64]) -> Result<(), BoxError> {
        let delete = "DELETE FROM larder_outbox WHERE id = ANY ($1)";
        self.0.get().await?.execute(delete, &[&ids]).await?;
        Ok(())
    }
}
