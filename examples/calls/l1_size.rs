//! How much memory L1 takes: a number of bytes, or with `l1_capacity` a number of entries. What L1 has no room for is
//! still in L2.

use std::error::Error;
use std::time::Duration;

use larder::{Cache, MemoryL2, Source};
use tokio::time::sleep;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let thumbnails: Cache<u64, Vec<u8>> = Cache::builder("photos:thumbnail")
        .l1_capacity_bytes(12_000) // with the 550 bytes that an entry takes besides its value
        .l2(l2.clone())
        .build()?;
    thumbnails.ready().await;
    let ids: Vec<u64> = (0..20).collect();
    thumbnails
        .insert_many(ids.iter().map(|id| (id, vec![0; 3_000])))
        .await?;
    // Entries for which there is no room go with later inserts, or within a second.
    sleep(Duration::from_secs(2)).await;
    let kept = thumbnails.stats().l1_entries;
    assert!((1..=3).contains(&kept), "three fit in, and not {kept}");
    let found = thumbnails.get_many(&ids).await;
    assert!(found.iter().all(Option::is_some), "L2 has them all");

    // The estimate looks at each byte of a `Vec`. A weigher knows the size at once.
    let images: Cache<u64, Vec<u8>> = Cache::builder("photos:image")
        .l1_capacity_bytes(1_000_000)
        .l1_weigher(|key, image: &Vec<u8>| {
            u32::try_from(key.len() + image.len() + 600).unwrap_or(u32::MAX)
        })
        .build()?;
    images.insert(&7, vec![0; 900_000]).await?;
    assert!(images.get_local(&7).is_some());

    // A job that reads everything once has no use for an L1.
    let job: Cache<u64, Vec<u8>> = Cache::builder("photos:thumbnail")
        .l1_capacity(0)
        .l2(l2)
        .build()?;
    job.ready().await;
    for _ in 0..2 {
        let image = job.get(&7).await.ok_or("it is in L2")?;
        assert_eq!(image.meta().source(), Source::L2);
    }
    Ok(())
}
