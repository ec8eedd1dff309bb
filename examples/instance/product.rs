//! A product, the body that a client sends for one, and the valid ids.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The longest name, in characters.
const NAME_LIMIT: usize = 200;

/// The largest number the database can hold.
const LARGEST: u64 = i64::MAX.unsigned_abs();

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) price_cents: u64,
    /// 1 at first, one more with each write.
    pub(crate) version: u64,
}

/// What a client sends to create or change a product.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct Draft {
    #[serde(deserialize_with = "name")]
    pub(crate) name: String,
    #[serde(deserialize_with = "price_cents")]
    pub(crate) price_cents: u64,
}

impl Draft {
    /// Reads JSON; the error says what to change.
    pub(crate) fn parse(json: &[u8]) -> serde_json::Result<Self> {
        // Serde would take an array of the fields' values as well.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(serde_json::Error::custom("a product is an object"));
        }
        serde_json::from_slice(json)
    }
}

/// Reads the id in a path: digits only, and no larger than the database can hold.
pub(crate) fn parse_id(text: &str) -> Result<u64, String> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|id| *id <= LARGEST)
        .ok_or_else(|| format!("a product id is a whole number from 0 to {LARGEST}"))
}

fn name<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let name = String::deserialize(input)?;
    if name.trim().is_empty() {
        return Err(D::Error::custom("name must not be empty"));
    }
    if name.chars().count() > NAME_LIMIT {
        let problem = format!("name must have at most {NAME_LIMIT} characters");
        return Err(D::Error::custom(problem));
    }
    Ok(name)
}

fn price_cents<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    // Parsed as any JSON value first, because "expected u64" would not help the client.
    Value::deserialize(input)?
        .as_u64()
        .filter(|price| *price <= LARGEST)
        .ok_or_else(|| {
            let problem = format!("price_cents must be a whole number from 0 to {LARGEST}");
            D::Error::custom(problem)
        })
}
