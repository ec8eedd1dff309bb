//! Waiting for a condition, with an end: as the tests of every store do.

#[path = "../store_tests/src/eventually.rs"]
mod of_store_tests;

pub(crate) use of_store_tests::eventually;
