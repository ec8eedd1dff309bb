//! What the tests share, on the simulated Redis.

// They wait for a server.
#![allow(clippy::unused_async)]

#[path = "../../../support/damage.rs"]
pub(crate) mod damage;
#[path = "../../../support/eventually.rs"]
pub(crate) mod eventually;
#[path = "../../../support/forgery.rs"]
pub(crate) mod forgery;
pub(crate) mod home;
pub(crate) mod listener;
pub(crate) mod local;
#[path = "../../../support/log.rs"]
pub(crate) mod log;
pub(crate) mod mutants;
#[path = "../../../support/network.rs"]
pub(crate) mod network;
pub(crate) mod redis_cluster;
pub(crate) mod redis_server;
#[path = "../../../support/seeds.rs"]
pub(crate) mod seeds;
#[path = "../../../support/unlocked.rs"]
pub(crate) mod unlocked;
