//! Values that are compressed and encrypted in Redis.

use std::error::Error;

use larder::codec::{Auto, Compressed, Encrypted, EncryptionKeys};
use larder::{Cache, MemoryL2};

type Letters = Cache<u64, String>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    // In a service the key comes from where its secrets are.
    let keys = EncryptionKeys::new(1, &[7; 32])?;
    let codec = Encrypted::new(Compressed::new(Auto), keys);
    let letters: Letters = Cache::builder("post:letter")
        .l2(l2.clone())
        .codec(codec)
        .build()?;
    letters.insert(&7, "Dear Ann, ".repeat(1_000)).await?;
    // 10 000 bytes before they were compressed.
    assert!(letters.stats().l2_written_bytes < 500);

    // An instance without the key can neither read them, nor tell them from damage.
    let stranger: Letters = Cache::builder("post:letter").l2(l2).build()?;
    assert!(stranger.get(&7).await.is_none());
    assert_eq!(stranger.stats().decode_errors, 1);
    Ok(())
}
