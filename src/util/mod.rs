//! What several layers need and that knows nothing of a cache.
//!
//! - [`call`]: the future of a call
//! - [`crc16`]: the hash of Redis Cluster
//! - [`few_names`]: some of many names, for a log line
//! - [`late`]: a time limit on a runtime that may be busy
//! - [`lock`]: locks that a panic elsewhere does not close
//! - [`logged_once`]: log lines that are written once for each cause
//! - [`on_drop`]: a step that follows even if the task in between is cancelled
//! - [`pacing`]: when the next batch of requests leaves
//! - [`partial_debug`]: `Debug` for types that hold more than can be shown
//! - [`per_runtime`]: what the callers on one runtime share
//! - [`random`]: numbers that no other instance draws, unless the thread is seeded
//! - [`retry_delays`]: pauses between attempts
//! - [`shared_result`]: one result for many tasks
//! - [`shared_work`]: work that is done once for all who ask before it begins
//! - [`throttle`]: log lines that are not written for every request
//! - [`time_slice`]: how long a task works before it lets other tasks run

pub(crate) mod call;
pub(crate) mod crc16;
pub(crate) mod few_names;
pub(crate) mod late;
pub(crate) mod later;
pub(crate) mod lock;
pub(crate) mod logged_once;
pub(crate) mod on_drop;
pub(crate) mod pacing;
pub(crate) mod partial_debug;
pub(crate) mod per_runtime;
pub(crate) mod process_name;
pub(crate) mod random;
pub(crate) mod retry_delays;
pub(crate) mod shared_result;
pub(crate) mod shared_work;
pub(crate) mod throttle;
pub(crate) mod time_slice;
