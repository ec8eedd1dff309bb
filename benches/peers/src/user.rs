//! What is cached.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// About 128 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: u64,
    name: String,
    email: String,
    about: String,
    tags: Vec<u32>,
}

impl User {
    pub fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("user number {id}"),
            email: format!("user.{id}@example.org"),
            about: "x".repeat(56),
            tags: (0..8).collect(),
        }
    }
}

/// A hit of a way that decodes the value for every caller, where others share one value.
pub struct Decoded(pub User);

impl Deref for Decoded {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}
