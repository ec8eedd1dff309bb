//! What the test of agreement needs.

#[path = "../../../support/eventually.rs"]
pub(crate) mod eventually;
#[path = "../../../support/seeds.rs"]
pub(crate) mod seeds;
