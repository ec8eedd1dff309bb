//! A user sees the own change, whichever instance the next request reaches.

use std::error::Error;
use std::io;
use std::time::Duration;

use larder::{Cache, LoadingCache, MemoryL2, Token};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Cache<u64, String> = Cache::builder("user:name").l2(l2.clone()).build()?;
    let b: Cache<u64, String> = Cache::builder("user:name").l2(l2).build()?;
    a.ready().await;
    b.ready().await;
    let load = || async { Ok::<_, io::Error>("Ann".to_owned()) };
    b.get_or_load(&7, load).await?;

    // POST /users/7 reaches instance A. Its answer carries a cookie of at most 40 bytes.
    update_user(7, "Anna").await?;
    let cookie = a.invalidate(&7).await?.to_string();

    // GET /users/7 reaches instance B, perhaps before the message does.
    let load = || async { Ok::<_, io::Error>("Anna".to_owned()) };
    let name = match cookie.parse::<Token>() {
        Ok(token) => b.at_least(&token).get_or_load(&7, load).await?,
        // No cookie, or not one of ours.
        Err(_) => b.get_or_load(&7, load).await?,
    };
    assert_eq!(*name, "Anna");

    // A cache that has its loader needs none for that.
    let names: LoadingCache<u64, String> = Cache::builder("user:name:c")
        .l2(MemoryL2::new())
        .read_through(|_| async { Ok::<_, io::Error>("Anna".to_owned()) })
        .build()?;
    let token = names.invalidate(&7).await?;
    assert_eq!(*names.at_least(&token).get_or_load(&7).await?, "Anna");
    Ok(())
}

async fn update_user(_id: u64, _name: &str) -> Result<(), io::Error> {
    sleep(Duration::from_millis(5)).await; // UPDATE user SET name = $2 WHERE id = $1
    Ok(())
}
