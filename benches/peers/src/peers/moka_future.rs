//! moka's asynchronous cache alone.

use std::sync::Arc;

use moka::future::Cache;

use crate::peer::{CAPACITY, OneLevel, Peer, TTL};
use crate::user::User;

#[derive(Clone)]
pub struct MokaFuture(Cache<String, Arc<User>>);

impl Peer for MokaFuture {
    const NAME: &'static str = "moka::future";
    type Key = String;
    type Hit = Arc<User>;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Arc<User>> {
        self.0.get(key).await
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.insert(key.clone(), Arc::new(user)).await;
    }
}

impl OneLevel for MokaFuture {
    fn start() -> Self {
        let cache = Cache::builder().max_capacity(CAPACITY.into());
        Self(cache.time_to_live(TTL).build())
    }
}
