//! A `Result` by another name would be cached with its errors.

use larder::cached;

type Outcome<T> = Result<T, String>;

#[cached(namespace = "shop:outcome")]
async fn outcome(id: u64) -> Outcome<u64> {
    Ok(id)
}

fn main() {}
