//! moka's blocking cache alone.

use std::sync::Arc;

use moka::sync::Cache;

use crate::peer::{CAPACITY, OneLevel, Peer, TTL};
use crate::user::User;

#[derive(Clone)]
pub struct MokaSync(Cache<String, Arc<User>>);

impl Peer for MokaSync {
    const NAME: &'static str = "moka::sync";
    type Key = String;
    type Hit = Arc<User>;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Arc<User>> {
        self.0.get(key)
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.insert(key.clone(), Arc::new(user));
    }
}

impl OneLevel for MokaSync {
    fn start() -> Self {
        let cache = Cache::builder().max_capacity(CAPACITY.into());
        Self(cache.time_to_live(TTL).build())
    }
}
