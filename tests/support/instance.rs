//! Running instances of the example service, and how to talk to them.

use std::path::Path;
use std::time::Duration;

use reqwest::{Body, Client, Method};
use serde_json::{Value, json};

use super::program::{Dir, Program};

const LIMIT: Duration = Duration::from_secs(10);

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

/// Starts an instance on each of these Redis servers, all on one database, and waits until they serve.
pub(crate) async fn start_all(
    redis: &[String],
    db: &Path,
    dir: &Dir,
    extra: &[&str],
    threads: Option<usize>,
) -> Vec<Instance> {
    let threads = threads.map(|threads| ("TOKIO_WORKER_THREADS", threads.to_string()));
    // All are started before the first is waited for: they meet at the new database.
    let programs: Vec<Program> = ('a'..)
        .zip(redis)
        .map(|(name, redis)| {
            let mut arguments = vec![
                format!("--name={name}"),
                "--listen=127.0.0.1:0".to_owned(),
                format!("--redis={redis}"),
                format!("--db={}", db.display()),
            ];
            arguments.extend(extra.iter().map(ToString::to_string));
            let log = dir.join(&format!("{name}.log"));
            Program::start_with(threads.as_slice(), "instance", &arguments, log)
        })
        .collect();
    let mut instances = Vec::new();
    for program in programs {
        instances.push(Instance::new(program).await);
    }
    instances
}

impl Instance {
    /// Waits until it prints its address.
    async fn new(mut program: Program) -> Self {
        let line = program.line().await;
        let url = line
            .trim_end()
            .split_once(": listening on ")
            .unwrap_or_else(|| panic!("it does not print its address: {line:?}"))
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

    pub(crate) async fn is_well(&self) -> bool {
        self.health().await.body["status"] == "ok"
    }

    pub(crate) async fn stat(&self, counter: &str) -> u64 {
        let stats = self.ask(Method::GET, "/stats", "").await;
        stats.body[counter]
            .as_u64()
            .unwrap_or_else(|| panic!("there is no number {counter} in {stats:?}"))
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.try_ask(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> reqwest::Result<Answer> {
        let url = format!("{}{path}", self.url);
        let answer = self.client.request(method, &url).body(body).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await?;
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
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
        self.flag("x-cache-stale")
    }

    /// Whether it is not promised to be current.
    pub(crate) fn is_unproven(&self) -> bool {
        self.flag("x-cache-unproven")
    }

    /// Whether the value is one that Redis holds or held.
    pub(crate) fn is_stored(&self) -> bool {
        self.flag("x-cache-stored")
    }

    fn flag(&self, name: &str) -> bool {
        match self.header(name) {
            "true" => true,
            "false" => false,
            other => panic!("{name} is neither true nor false: {other}"),
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

    /// The message of an error; panics when it is not JSON.
    pub(crate) fn error(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        self.body["error"]
            .as_str()
            .unwrap_or_else(|| panic!("there is no error in {self:?}"))
    }
}
