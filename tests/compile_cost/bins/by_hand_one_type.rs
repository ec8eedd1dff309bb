//! A service that caches one type of values. It is built and not run.

#[macro_use]
mod by_hand;

cache_of!(small, u8);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    Box::pin(small::run()).await
}
