//! Arguments and the key.

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<(String, u64), String>,
}

impl Shop {
    #[cached(cache = "self.products", key = "(tenant, id)")]
    async fn not_in_the_key(&self, tenant: &str, id: u64, locale: &str, page: u8) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}{locale}{page}"))
    }

    #[cached(cache = "self.products", key = "(tenant, id)")]
    async fn skipped_and_in_the_key(&self, tenant: &str, #[skip] id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.products", key = "(tenant, other.id)")]
    async fn only_a_field_has_the_name(&self, tenant: &str, other: &Other, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}{}", other.id))
    }

    #[cached(cache = "self.products", key = "(tenant, Other { id: 1 }.id)")]
    async fn a_field_is_set(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.products", key = "(tenant, id")]
    async fn not_an_expression(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.products", key = "(format!(\"{{id}}{tenant}\"), 7)")]
    async fn braces_stand_for_themselves(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.products", key = "(tenant, u64::from(!(tenant == \"{id}\")))")]
    async fn a_text_outside_a_macro(&self, tenant: &str, id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }

    #[cached(cache = "self.products", key = "(tenant, 7)")]
    async fn has_a_condition(&self, tenant: &str, #[cfg(unix)] id: u64) -> Result<String, LoadError> {
        Ok(format!("{tenant}{id}"))
    }
}

#[derive(Clone)]
struct Other {
    id: u64,
}

#[cached(namespace = "shop:product", key = "id + 1")]
async fn of_no_type(id: u64) -> Result<u64, LoadError> {
    Ok(id)
}

#[cached(namespace = "shop:product")]
async fn too_many(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8) -> Result<u8, LoadError> {
    Ok(a + b + c + d + e + f + g + h + i)
}

fn main() {}
