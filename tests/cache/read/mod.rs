//! Look-ups.

mod absent;
mod at_least;
mod busy_runtime;
#[cfg(all(feature = "json", feature = "messagepack", feature = "postcard"))]
mod changed_types;
#[cfg(feature = "compression")]
mod compression;
mod damage;
#[cfg(feature = "encryption")]
mod encryption;
mod eviction;
#[cfg(all(
    feature = "json",
    feature = "messagepack",
    feature = "postcard",
    feature = "compression",
    feature = "encryption"
))]
mod former_types;
mod get_many;
mod hot_keys;
mod l1_capacity;
mod lookup_by;
mod size_advice;
mod slow_values;
mod touch_and_expire;
#[cfg(feature = "postcard")]
mod type_pairs;
mod unproven_joins;
