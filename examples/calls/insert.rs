//! For values that only the cache has, such as sessions, drafts and counters of the last minute. `insert_many` stores
//! many in few round trips.

use std::error::Error;

use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<(String, u64), String> = Cache::builder("mail:draft").l2(l2.clone()).build()?;
    let b: Cache<(String, u64), String> = Cache::builder("mail:draft").l2(l2.clone()).build()?;

    // By tenant and user. The next request may go to another instance.
    let (tenant, user) = ("acme", 7_u64);
    a.insert(&(tenant, user), "Dear Bob,".to_owned()).await?;
    let draft = b.get(&(tenant, user)).await.ok_or("it is shared")?;
    assert_eq!(*draft, "Dear Bob,");

    let imported = [("acme", 8), ("initech", 9)];
    a.insert_many(imported.iter().map(|key| (key, String::new())))
        .await?;
    assert!(b.get_many(&imported).await.iter().all(Option::is_some));

    // Without L2 nothing is stored, and the error says so.
    l2.set_reachable(false);
    let error = a.insert(&(tenant, user), "Dear Bob, I".to_owned()).await;
    let error = error.err().ok_or("L2 is away")?;
    assert!(error.is_deferred(), "ask the user to save again");
    assert!(a.get(&(tenant, user)).await.is_none());
    Ok(())
}
