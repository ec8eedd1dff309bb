//! How values are encoded in Redis, and how a fleet changes that.

use std::error::Error;

use larder::codec::{Bincode, Json, MessagePack, Postcard};
use larder::{Cache, MemoryL2};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

type Products = Cache<u64, Product>;

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let l2 = MemoryL2::new();
    let instance = || Cache::builder("shop:product").l2(l2.clone());
    // The default: fast and small.
    let bincode: Products = instance().codec(Bincode).build()?;
    // As small, with a published format.
    let postcard: Products = instance().codec(Postcard).build()?;
    // With field names: a new version of the type can have a field more, with `#[serde(default)]`.
    let message_pack: Products = instance().codec(MessagePack).build()?;
    // The same, and readable with `redis-cli`.
    let json: Products = instance().codec(Json).build()?;

    // A stored value names its codec, so a fleet changes it one instance after the other.
    let fleet = [bincode, postcard, message_pack, json];
    for (id, writer) in (0..).zip(&fleet) {
        let product = Product {
            name: "tea".to_owned(),
            cents: 450,
        };
        writer.insert(&id, product).await?;
        for reader in &fleet {
            let product = reader.get(&id).await.ok_or("it is stored")?;
            assert_eq!((&*product.name, product.cents), ("tea", 450));
        }
    }
    Ok(())
}
