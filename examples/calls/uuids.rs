//! Keys that are UUIDs.

use std::error::Error;

use larder::Cache;
use uuid::Uuid;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let customers: Cache<Uuid, String> = Cache::builder("crm:customer").build()?;
    let id: Uuid = "0199d1a2-6d7c-7b3f-9d3a-2f1c5a9b8e10".parse()?;
    customers.insert(&id, "Ann".to_owned()).await?;
    assert_eq!(*customers.get(&id).await.ok_or("it is stored")?, "Ann");

    // As a part of a key, too.
    let orders: Cache<(Uuid, u64), String> = Cache::builder("crm:order").build()?;
    orders.insert(&(id, 1), "tea".to_owned()).await?;
    assert!(orders.get(&(id, 2)).await.is_none());
    Ok(())
}
