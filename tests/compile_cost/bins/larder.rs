//! A cache of a service, for one type of values.

macro_rules! cache_of {
    ($name:ident, $price:ty) => {
        mod $name {
            use std::io;
            use std::time::Duration;

            use larder::Cache;
            use serde::{Deserialize, Serialize};

            #[derive(Clone, Debug, Serialize, Deserialize)]
            struct Product {
                id: u64,
                name: String,
                price: $price,
                tags: Vec<String>,
            }

            async fn load(id: u64) -> Result<Product, io::Error> {
                Ok(Product {
                    id,
                    name: format!("product {id}"),
                    price: 3,
                    tags: Vec::new(),
                })
            }

            async fn load_many(ids: Vec<u64>) -> Result<Vec<(u64, Product)>, io::Error> {
                let mut loaded = Vec::new();
                for id in ids {
                    loaded.push((id, load(id).await?));
                }
                Ok(loaded)
            }

            pub(super) async fn run() -> Result<(), Box<dyn std::error::Error>> {
                let cache: Cache<u64, Product> = Cache::builder(stringify!($name))
                    .redis("redis://127.0.0.1:1")
                    .l2_ttl(Duration::from_secs(600))
                    .soft_ttl(Duration::from_secs(60))
                    .build()?;
                let product = cache.get_or_load(&1, || load(1)).await?;
                cache.insert(&2, Product::clone(&product)).await?;
                cache.invalidate(&2).await?;
                cache.get_many_or_load(&[1, 2], load_many).await?;
                Ok(())
            }
        }
    };
}
