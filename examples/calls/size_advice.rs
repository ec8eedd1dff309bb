//! How large L1 should be: which share of look-ups it would answer with more or less room.

use std::error::Error;
use std::io;

use larder::Cache;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let squares: Cache<u64, u64> = Cache::builder("shop:square")
        .l1_capacity(100)
        .size_advice(true)
        .build()?;
    // 150 numbers, of which 100 have room.
    for n in 0..30_000 {
        let root = n % 150;
        let square = move || async move { Ok::<_, io::Error>(root * root) };
        squares.get_or_load(&root, square).await?;
    }
    let advice = squares.size_advice().ok_or("it has seen enough")?;
    let [.., twice, _, most] = advice.sizes() else {
        return Err("there are six sizes".into());
    };
    assert_eq!((twice.capacity(), most.capacity()), (200, 800));
    // All numbers have room in 200 entries, and more room saves nothing more.
    assert!(twice.saved() > 0.2);
    assert!((most.saved() - twice.saved()).abs() < 0.01);
    Ok(())
}
