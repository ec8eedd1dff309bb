//! What lies in Redis.

mod bounds;
#[path = "../../../l2/redis/detour.rs"]
mod detour;
#[path = "../../../l2/redis/incarnations.rs"]
mod incarnations;
#[path = "../../../l2/redis/keys.rs"]
mod keys;
#[path = "../../../l2/redis/members.rs"]
mod members;
#[path = "../../../l2/redis/overload.rs"]
mod overload;
#[path = "../../../l2/redis/raw.rs"]
mod raw;
#[path = "../../../l2/redis/resends.rs"]
mod resends;
#[path = "../../../l2/redis/staged.rs"]
mod staged;
#[path = "../../../l2/redis/steps.rs"]
mod steps;
#[path = "../../../l2/redis/write_stream.rs"]
mod write_stream;

use self::raw::*;
