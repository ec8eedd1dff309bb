//! For code that cannot wait, as it is not async or runs for every packet: it sees what this instance has in memory.

use std::error::Error;

use larder::{Cache, MemoryL2};

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let admin: Cache<String, bool> = Cache::builder("shop:flag").l2(l2.clone()).build()?;
    let web: Cache<String, bool> = Cache::builder("shop:flag").l2(l2).build()?;
    web.ready().await;

    admin.insert("new-checkout", true).await?;
    assert!(!is_on(&web, "new-checkout"), "it is in L2 only");

    // A look-up in L2 keeps it here; a service does this once in a while for all its flags.
    web.get("new-checkout").await.ok_or("L2 has it")?;
    assert!(is_on(&web, "new-checkout"));
    Ok(())
}

fn is_on(flags: &Cache<String, bool>, flag: &str) -> bool {
    flags.get_local(flag).is_some_and(|on| *on)
}
