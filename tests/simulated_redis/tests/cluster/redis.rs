//! What lies in Redis Cluster.

#[path = "../../../l2/redis/cluster.rs"]
mod cluster;
#[path = "../../../l2/redis/cluster_nodes.rs"]
mod cluster_nodes;
mod heartbeats;
#[path = "../../../l2/redis/members.rs"]
mod members;
#[path = "../../../l2/redis/raw.rs"]
mod raw;

use self::raw::*;
