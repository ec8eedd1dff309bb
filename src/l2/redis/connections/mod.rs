//! The connections for requests: a partition has one or two, which all partitions on a server share.
//!
//! - [`topology`]: the server of each partition: one for all, or the nodes of a cluster
//! - [`server_connections`]: the pool of one server, and which of its connections is shared
//! - [`connection`]: one connection as a partition uses it; [`connect`]: how it is made
//! - [`naming`]: the names of connections
//! - [`identify`]: the first request of a partition over a connection; [`number_of_partitions`]: which partitions of a
//!   namespace may be used, which is found out for all of them together

pub(super) mod connect;
pub(super) mod connection;
pub(super) mod identify;
pub(super) mod naming;
mod number_of_partitions;
pub(super) mod server_connections;
pub(super) mod topology;
