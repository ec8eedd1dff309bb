//! Messages of other instances and programs, and the proof that none was missed.

mod events;
mod forged;
mod freshness;
mod listen_to;
#[cfg(feature = "json")]
mod publish_changes;
mod put_back;
mod replay;
