//! Keys of a slot, and how they leave a node: its replicas do the same.

use super::slots::slot_of;
use crate::SimulatedRedis;
use crate::keyspace::Entry;
use crate::serve::lock;
use crate::server::Server;

impl Server {
    /// The keys of a slot, in their order.
    pub(crate) fn keys_in(&mut self, slot: u16) -> Vec<Vec<u8>> {
        let mut keys = self.first_db().keys();
        keys.retain(|key| slot_of(key) == slot);
        keys
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.first_db().take(key)?;
        let request = [b"DEL".to_vec(), key.to_vec()];
        self.replication.note(self.micros, 0, &request, None);
        Some(entry)
    }

    fn restore(&mut self, key: &[u8], entry: Entry) {
        let request = [b"RESTORE".to_vec(), key.to_vec()];
        let micros = self.micros;
        self.replication.note(micros, 0, &request, Some(&entry));
        self.first_db().put(key, entry);
    }
}

/// Moves a key to another node, with the end of its TTL.
pub(super) fn transfer(key: &[u8], from: &SimulatedRedis, to: &SimulatedRedis) {
    let entry = lock(&from.0.server).remove(key);
    if let Some(entry) = entry {
        lock(&to.0.server).restore(key, entry);
    }
}
