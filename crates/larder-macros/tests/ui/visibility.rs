//! Companions are as visible as their function.

mod shop {
    use larder::{LoadError, cached};

    #[cached(namespace = "shop:a")]
    async fn private(id: u64) -> Result<u64, LoadError> {
        Ok(id)
    }

    #[cached(namespace = "shop:b")]
    pub(super) async fn shared(id: u64) -> Result<u64, LoadError> {
        Ok(id)
    }
}

fn main() {
    let _ = shop::shared(7);
    let _ = shop::shared::invalidate(7);
    let _ = shop::private(7);
    let _ = shop::private::invalidate(7);
}
