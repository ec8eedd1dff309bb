//! A cache of a service that is made by hand, for one type of values.

macro_rules! cache_of {
    ($name:ident, $price:ty) => {
        mod $name {
            use std::io;
            use std::time::Duration;

            use deadpool_redis::redis::AsyncCommands;
            use deadpool_redis::{Config, Pool, Runtime};
            use moka::future::Cache;
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

            fn redis_key(id: u64) -> String {
                format!("{}:{id}", stringify!($name))
            }

            async fn read_through(pool: &Pool, id: u64) -> Result<Product, String> {
                let mut redis = pool.get().await.map_err(|error| error.to_string())?;
                let bytes: Option<Vec<u8>> = redis
                    .get(redis_key(id))
                    .await
                    .map_err(|error| error.to_string())?;
                let config = bincode::config::standard();
                if let Some(bytes) = bytes
                    && let Ok((product, _)) = bincode::serde::decode_from_slice(&bytes, config)
                {
                    return Ok(product);
                }
                let product = load(id).await.map_err(|error| error.to_string())?;
                let bytes = bincode::serde::encode_to_vec(&product, config)
                    .map_err(|error| error.to_string())?;
                let stored: Result<(), _> = redis.set_ex(redis_key(id), bytes, 600).await;
                stored.map_err(|error| error.to_string())?;
                Ok(product)
            }

            pub(super) async fn run() -> Result<(), Box<dyn std::error::Error>> {
                let pool =
                    Config::from_url("redis://127.0.0.1:1").create_pool(Some(Runtime::Tokio1))?;
                let l1: Cache<u64, Product> = Cache::builder()
                    .max_capacity(10_000)
                    .time_to_live(Duration::from_secs(60))
                    .build();
                let product = l1.try_get_with(1, read_through(&pool, 1)).await;
                let product = product.map_err(|error| error.to_string())?;
                let bytes = bincode::serde::encode_to_vec(&product, bincode::config::standard())?;
                let mut redis = pool.get().await?;
                let () = redis.set_ex(redis_key(2), bytes, 600).await?;
                l1.insert(2, product).await;
                let () = redis.del(redis_key(2)).await?;
                let () = redis.publish("invalidated", redis_key(2)).await?;
                l1.invalidate(&2).await;
                for id in [1, 2] {
                    let product = l1.try_get_with(id, read_through(&pool, id)).await;
                    product.map_err(|error| error.to_string())?;
                }
                Ok(())
            }
        }
    };
}
