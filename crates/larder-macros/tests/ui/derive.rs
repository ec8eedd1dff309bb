//! Types that cannot be keys.

use larder::CacheKey;

#[derive(CacheKey)]
struct Price {
    tenant: String,
    amount: f64,
}

#[derive(CacheKey)]
enum Filter {
    Ids(Vec<u64>),
}

#[derive(CacheKey)]
union Number {
    a: u64,
    b: i64,
}

fn main() {}
