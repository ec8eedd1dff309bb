//! Types to encode and to decode: of the fuzz target, and of tests/codec.rs, which includes this file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Shape {
    Unit,
    Newtype(String),
    Tuple(u8, Option<i64>),
    Struct { width: u32, inner: Box<Shape> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Id(pub(crate) u64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair(pub(crate) Id, pub(crate) String);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marker;

/// Nests by an enum.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum List {
    End,
    Node(Box<List>),
}

/// Nests by an option in a newtype.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Links(pub(crate) Option<Box<Links>>);

/// Nests by an option in a struct.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    pub(crate) next: Option<Box<Chain>>,
}

/// Nests by a sequence.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tree(pub(crate) Vec<Tree>);

/// Nests by a map.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Folder(pub(crate) BTreeMap<String, Folder>);
