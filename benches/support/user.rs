//! The value that most benches store.

use serde::{Deserialize, Serialize};

/// About 128 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: u64,
    name: String,
    email: String,
    about: String,
    tags: Vec<u32>,
}

impl User {
    pub(crate) fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("user number {id}"),
            email: format!("user.{id}@example.org"),
            about: "x".repeat(56),
            tags: (0..8).collect(),
        }
    }

    /// As a service does by hand.
    pub(crate) fn encode(&self) -> Vec<u8> {
        bincode::serde::encode_to_vec(self, bincode::config::standard()).unwrap()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        bincode::serde::decode_from_slice(bytes, bincode::config::standard())
            .unwrap()
            .0
    }
}
