//! What only a real server can show: its keys, its incarnations, its outages, its addresses.

mod batches;
#[cfg_attr(
    not(feature = "cluster"),
    expect(dead_code, reason = "a cluster has more faults")
)]
mod callers;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod cluster_faults;
mod cluster_nodes;
mod detour;
mod failover;
mod heartbeats;
mod incarnations;
mod joint_reads;
mod keys;
mod load_steps;
mod logins;
mod members;
mod one_time;
mod outages;
mod overload;
mod raw;
mod replicas;
mod resends;
mod sentinel;
mod shared;
mod staged;
mod steps;
mod subscriptions;
#[cfg(feature = "tls-ring")]
mod tls;
mod urls;
#[cfg(feature = "write-behind")]
mod write_stream;

use self::raw::*;
