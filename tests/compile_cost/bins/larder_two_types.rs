//! A service that caches two types of values. It is built and not run.

#[macro_use]
mod larder;

cache_of!(small, u8);
cache_of!(large, u64);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    Box::pin(small::run()).await?;
    Box::pin(large::run()).await
}
