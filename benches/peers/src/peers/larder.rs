//! larder, with its defaults.

use std::convert::Infallible;

use larder::{Cache, Entry};

use crate::peer::{CAPACITY, Peer, TTL, TwoLevels};
use crate::user::User;

#[derive(Clone)]
pub struct Larder(Cache<String, User>);

impl Peer for Larder {
    const NAME: &'static str = "larder";
    type Key = String;
    type Hit = Entry<User>;

    fn key(&self, id: u64) -> String {
        id.to_string()
    }

    async fn get(&self, key: &String) -> Option<Entry<User>> {
        self.0.get(key).await
    }

    async fn insert(&self, key: &String, user: User) {
        self.0.insert(key, user).await.unwrap();
    }
}

impl TwoLevels for Larder {
    async fn start(redis: &str, name: &str) -> Self {
        let cache = Cache::builder(name)
            .l1_capacity(CAPACITY.into())
            .l2_ttl(TTL)
            .redis(redis)
            .build()
            .unwrap();
        cache.ready().await;
        Self(cache)
    }

    async fn get_or_load<F, Fut>(&self, key: &String, load: F) -> Entry<User>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = User> + Send + 'static,
    {
        let load = move || async move { Ok::<_, Infallible>(load().await) };
        self.0.get_or_load(key, load).await.unwrap()
    }

    async fn invalidate(&self, key: &String) {
        self.0.invalidate(key).await.unwrap();
    }
}
