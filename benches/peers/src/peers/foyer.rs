//! foyer in memory.

use foyer::{Cache, CacheBuilder, CacheEntry};

use crate::peer::{CAPACITY, OneLevel, Peer};
use crate::user::User;

#[derive(Clone)]
pub struct Foyer(Cache<String, User>);

impl Peer for Foyer {
    const NAME: &'static str = "foyer (knows no TTL)";
    type Key = String;
    type Hit = CacheEntry<String, User>;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<CacheEntry<String, User>> {
        self.0.get(key)
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.insert(key.clone(), user);
    }
}

impl OneLevel for Foyer {
    fn start() -> Self {
        Self(CacheBuilder::new(CAPACITY as usize).build())
    }
}
