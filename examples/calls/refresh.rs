//! For data that has changed at the source and is expensive to load: it is in the cache before anybody asks for it, and
//! nobody waits meanwhile.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use larder::{Cache, Loaded, MemoryL2};
use tokio::time::sleep;

type Ranking = Vec<String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let importer: Cache<String, Ranking> =
        Cache::builder("chess:ranking").l2(l2.clone()).build()?;
    let web: Cache<String, Ranking> = Cache::builder("chess:ranking").l2(l2).build()?;
    web.get_or_load("club", || ranking(["Bea", "Ann"])).await?;

    // The day's games are imported. Until the new ranking is stored, the web instance shows the old one.
    let (refreshed, shown) = tokio::join!(
        importer.refresh("club", || ranking(["Ann", "Bea"])),
        web.get("club"),
    );
    assert_eq!(*refreshed?, ["Ann", "Bea"]);
    assert_eq!(*shown.ok_or("it is still there")?, ["Bea", "Ann"]);

    sleep(Duration::from_millis(1)).await; // a network hop
    let shown = web.get("club").await.ok_or("it is there already")?;
    assert_eq!(*shown, ["Ann", "Bea"]);

    // With a loader that also says for how long its value is valid: until the next games.
    let until_monday = async || {
        let ranking = ranking(["Ann", "Bea"]).await?;
        Ok::<_, Infallible>(Loaded::new(ranking).ttl(Duration::from_secs(3 * 86_400)))
    };
    assert_eq!(importer.refresh("club", until_monday).await?.len(), 2);
    Ok(())
}

async fn ranking(order: [&str; 2]) -> Result<Ranking, Infallible> {
    sleep(Duration::from_secs(10)).await; // over all games
    Ok(order.map(str::to_owned).to_vec())
}
