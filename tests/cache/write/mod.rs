//! Inserts, invalidations, updates and clears.

pub(crate) mod batching;
mod clear;
mod deferred;
mod entry_options;
mod holds;
mod insert_if;
mod invalidate_and_wait;
mod invalidate_prefix;
#[cfg(all(
    feature = "compression",
    feature = "json",
    feature = "messagepack",
    feature = "postcard"
))]
mod read_back;
mod tags;
mod tags_of;
mod ttl;
mod update;
