//! The steps of a partition: one request each, in a script or a command.
//!
//! - [`partition`]: the steps, with their arguments and answers; [`sending`]: how they are sent
//! - [`load_steps`]: the steps of loads; [`gathered`]: those that share a request
//! - [`read_batcher`]: reads of all partitions on a server that share a request; [`read_request`]: over which connection
//!   it goes
//! - [`counts`]: counters of all instances, and the prefixes that are bypassed
//! - `write_stream`: the steps of write-behind

pub(super) mod counts;
mod gathered;
pub(super) mod load_steps;
pub(super) mod partition;
pub(super) mod read_batcher;
pub(super) mod read_request;
mod sending;
#[cfg(feature = "write-behind")]
pub(super) mod write_stream;
