//! Instances of the service that share a Redis and a database, and how to talk to them.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Body, Client, Method};
use serde_json::{Value, json};

use crate::program::{Dir, Program};
use crate::support::eventually::eventually;
use crate::support::redis_server::RedisServer;

const LIMIT: Duration = Duration::from_secs(10);

/// Several instances, named a, b, c and so on.
pub(crate) struct Fleet<const N: usize> {
    // Dropped from the top: first the processes, then what they use.
    pub(crate) instances: [Instance; N],
    pub(crate) redis: RedisServer,
    pub(crate) db: PathBuf,
    _dir: Dir,
}

/// One running instance.
pub(crate) struct Instance {
    pub(crate) program: Program,
    url: String,
    client: Client,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    /// `Null` when it is empty or no JSON.
    pub(crate) body: Value,
}

impl<const N: usize> Fleet<N> {
    /// With a new Redis and a new database; returns when all is well.
    pub(crate) async fn start(extra: &[&str]) -> Self {
        let fleet = Self::launch(RedisServer::start().await, extra).await;
        fleet.all_well().await;
        fleet
    }

    /// Returns when all serve, whether or not that Redis answers.
    pub(crate) async fn launch(redis: RedisServer, extra: &[&str]) -> Self {
        let dir = Dir::new();
        let db = dir.join("data").join("of the shop").join("products.sqlite");
        // All are started before the first is waited for: they meet at the new database.
        let mut programs: Vec<Program> = ('a'..)
            .take(N)
            .map(|name| {
                let mut arguments = vec![
                    format!("--name={name}"),
                    "--listen=127.0.0.1:0".to_owned(),
                    format!("--redis={}", redis.url()),
                    format!("--db={}", db.display()),
                ];
                arguments.extend(extra.iter().map(ToString::to_string));
                Program::start("instance", &arguments, dir.join(&format!("{name}.log")))
            })
            .collect();
        let mut instances = Vec::new();
        for program in programs.drain(..) {
            instances.push(Instance::new(program).await);
        }
        Self {
            instances: instances
                .try_into()
                .unwrap_or_else(|_| panic!("as many as were started")),
            redis,
            db,
            _dir: dir,
        }
    }

    /// Waits until each instance says that Redis answers and that it hears of changes.
    pub(crate) async fn all_well(&self) {
        for instance in &self.instances {
            eventually("the instance is well", || async {
                instance.health().await.status == 200
            })
            .await;
        }
    }

    /// Waits until each instance says that it is not well.
    pub(crate) async fn all_degraded(&self) {
        for instance in &self.instances {
            eventually("the instance is degraded", || async {
                instance.health().await.status == 503
            })
            .await;
        }
    }

    /// Waits until each instance answers with this version.
    pub(crate) async fn all_see(&self, id: u64, version: u64) {
        for instance in &self.instances {
            eventually("the instance answers with the new version", || async {
                instance.get(id).await.version() == Some(version)
            })
            .await;
        }
    }

    /// Waits until each instance answers from its own memory.
    pub(crate) async fn all_remember(&self, id: u64) {
        for instance in &self.instances {
            eventually("the instance answers from memory", || async {
                instance.get(id).await.source() == "l1"
            })
            .await;
        }
    }

    /// One counter of all instances, added up.
    pub(crate) async fn sum(&self, counter: &str) -> u64 {
        let mut sum = 0;
        for instance in &self.instances {
            sum += instance.stat(counter).await;
        }
        sum
    }
}

impl Instance {
    /// Waits until it says where it listens.
    async fn new(mut program: Program) -> Self {
        let line = program.line().await;
        let url = line
            .trim_end()
            .split_once(": listening on ")
            .unwrap_or_else(|| panic!("it does not say where it listens: {line:?}"))
            .1
            .to_owned();
        let client = Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .expect("an HTTP client without extras can be built");
        Self {
            program,
            url,
            client,
        }
    }

    pub(crate) async fn get(&self, id: u64) -> Answer {
        self.ask(Method::GET, &format!("/products/{id}"), "").await
    }

    pub(crate) async fn put(&self, id: u64, name: &str) -> Answer {
        let body = json!({ "name": name, "price_cents": 450 }).to_string();
        self.ask(Method::PUT, &format!("/products/{id}"), body)
            .await
    }

    pub(crate) async fn delete(&self, id: u64) -> Answer {
        self.ask(Method::DELETE, &format!("/products/{id}"), "")
            .await
    }

    pub(crate) async fn health(&self) -> Answer {
        self.ask(Method::GET, "/health", "").await
    }

    pub(crate) async fn stat(&self, counter: &str) -> u64 {
        let stats = self.ask(Method::GET, "/stats", "").await;
        stats.body[counter]
            .as_u64()
            .unwrap_or_else(|| panic!("there is no number {counter} in {stats:?}"))
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let url = format!("{}{path}", self.url);
        let request = self.client.request(method, &url).body(body).send().await;
        let answer = request.unwrap_or_else(|error| panic!("no answer: {error:?}"));
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.expect("the answer has an end");
        Answer {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }
}

impl Answer {
    /// Panics when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_else(|| panic!("there is no {name} in {self:?}"))
    }

    /// Which level answered.
    pub(crate) fn source(&self) -> &str {
        self.header("x-cache")
    }

    pub(crate) fn is_stale(&self) -> bool {
        match self.header("x-cache-stale") {
            "true" => true,
            "false" => false,
            other => panic!("neither stale nor fresh: {other}"),
        }
    }

    pub(crate) fn age_ms(&self) -> u64 {
        let age = self.header("x-cache-age-ms");
        age.parse()
            .unwrap_or_else(|_| panic!("not an age in ms: {age}"))
    }

    /// What a write says of the caches: `done` or `deferred`.
    pub(crate) fn invalidation(&self) -> &str {
        self.header("x-invalidation")
    }

    /// The version of the product; `None` when there is no product in the answer.
    pub(crate) fn version(&self) -> Option<u64> {
        self.body["version"].as_u64()
    }

    /// The message of an error; panics when it is not told as JSON.
    pub(crate) fn error(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        self.body["error"]
            .as_str()
            .unwrap_or_else(|| panic!("there is no error in {self:?}"))
    }
}
