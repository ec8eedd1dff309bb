//! For values that several callers change at once: of those that have read the same version one wins, and the others
//! read again. With `Version::ABSENT`, of those that want to be the first.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, Loaded, MemoryL2, Version};

type Seats = Cache<String, Vec<String>>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let a: Seats = Cache::builder("cinema:seats").l2(l2.clone()).build()?;
    let b: Seats = Cache::builder("cinema:seats").l2(l2).build()?;

    // Both open the show; only one of them may.
    let (by_a, by_b) = tokio::join!(
        a.insert_if("dune", Vec::new(), Version::ABSENT),
        b.insert_if("dune", Vec::new(), Version::ABSENT),
    );
    assert!(by_a? != by_b?);

    // Two customers at the same time: no booking is lost.
    let (first, second) = tokio::join!(book(&a, "F4"), book(&b, "F5"));
    assert!(first? && second?);
    let mut seats = a.get("dune").await.ok_or("it is there")?.to_vec();
    seats.sort_unstable();
    assert_eq!(seats, ["F4", "F5"]);
    assert!(!book(&b, "F4").await?, "it is taken");

    // A box office that has a show to itself for a minute, whatever becomes of it.
    let mine = || Loaded::new(Vec::new()).ttl(Duration::from_secs(60));
    assert!(
        a.insert_if("dune:lock", mine(), Version::ABSENT)
            .await?
            .is_some()
    );
    assert!(
        b.insert_if("dune:lock", mine(), Version::ABSENT)
            .await?
            .is_none()
    );
    Ok(())
}

async fn book(shows: &Seats, seat: &str) -> Result<bool, Box<dyn Error>> {
    loop {
        let taken = shows.get("dune").await.ok_or("the show is not open")?;
        if taken.iter().any(|taken| taken == seat) {
            return Ok(false);
        }
        let version = taken.meta().version().ok_or("a stored value has one")?;
        let mut seats = taken.to_vec();
        seats.push(seat.to_owned());
        if shows.insert_if("dune", seats, version).await?.is_some() {
            return Ok(true);
        }
    }
}
