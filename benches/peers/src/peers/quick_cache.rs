//! quick_cache alone.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::peer::{CAPACITY, OneLevel, Peer};
use crate::user::User;

#[derive(Clone)]
pub struct QuickCache(Arc<Cache<String, Arc<User>>>);

impl Peer for QuickCache {
    const NAME: &'static str = "quick_cache (knows no TTL)";
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

impl OneLevel for QuickCache {
    fn start() -> Self {
        Self(Arc::new(Cache::new(CAPACITY as usize)))
    }
}
