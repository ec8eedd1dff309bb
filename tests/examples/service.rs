//! The example of a service with several caches.

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::eventually::eventually;
use crate::support::program::{Dir, Program};
use crate::support::redis_server::RedisServer;

const TOKEN: &str = "a token of the test";

struct Service {
    program: Program,
    shop: String,
    operators: String,
    client: Client,
}

impl Service {
    async fn start(dir: &Dir, name: &str, redis: &RedisServer) -> Self {
        let settings = dir.join("settings.json");
        let text = json!({ "redis": redis.url(), "session": { "l1_capacity": 100 } });
        std::fs::write(&settings, text.to_string()).unwrap();
        let log = dir.join(name);
        let environment = [("OPERATORS_TOKEN", TOKEN.to_owned())];
        let arguments = [settings.display().to_string()];
        let mut program = Program::start_with(&environment, "service", &arguments, log);
        let mut address = async |name: &str| {
            let line = program.line().await;
            let address = line.trim_end().strip_prefix(name);
            address.unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let (shop, operators) = (address("shop on ").await, address("operators on ").await);
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            program,
            shop,
            operators,
            client,
        }
    }

    async fn ask(
        &self,
        method: Method,
        url: String,
        token: &str,
        body: Option<Value>,
    ) -> (u16, String) {
        let mut request = self.client.request(method, &url).bearer_auth(token);
        request = match body {
            Some(body) => request.json(&body),
            None => request.header("content-type", "application/json"),
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn shop(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let url = format!("{}{path}", self.shop);
        self.ask(method, url, "", body).await
    }

    async fn operator(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let url = format!("{}{path}", self.operators);
        self.ask(method, url, TOKEN, body).await
    }

    async fn caches(&self) -> Vec<Value> {
        let (status, text) = self.operator(Method::GET, "/caches", None).await;
        assert_eq!(status, 200);
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test]
async fn several_caches_are_served_operated_and_closed() {
    let mut redis = RedisServer::start().await;
    let dir = Dir::new();
    let a = Service::start(&dir, "a.log", &redis).await;
    let mut b = Service::start(&dir, "b.log", &redis).await;

    // Products.
    let tea = json!({ "name": "tea", "maker": "Ann", "cents": 450 });
    assert_eq!(a.shop(Method::GET, "/products/7", None).await.0, 404);
    let put = a.shop(Method::PUT, "/products/7", Some(tea.clone())).await;
    assert_eq!(put.0, 204);
    let (status, text) = a.shop(Method::GET, "/products/7", None).await;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), tea);

    // Sessions, on both instances.
    let (status, session) = a.shop(Method::POST, "/login/42", None).await;
    assert_eq!(status, 200);
    let session = format!("/sessions/{session}");
    let user = b.shop(Method::GET, &session, None).await;
    assert_eq!(user, (200, "42".to_owned()));

    // The operators' routes.
    let caches = a.caches().await;
    let names: Vec<_> = caches.iter().map(|cache| &cache["namespace"]).collect();
    assert_eq!(names, ["shop:product", "shop:session"]);
    assert_eq!(caches[0]["stats"]["loads"], 2);
    let removed = a
        .operator(Method::DELETE, "/caches/tag?tag=maker:Ann", None)
        .await;
    assert_eq!(removed.0, 204);
    assert_eq!(a.shop(Method::GET, "/products/7", None).await.0, 200);
    let loads = a.caches().await[0]["stats"]["loads"].clone();
    assert_eq!(loads, 3, "it was removed by its tag");
    let off = a.operator(Method::PUT, "/caches/enabled", Some(json!(false)));
    assert_eq!(off.await.0, 204);
    assert!(
        a.caches()
            .await
            .iter()
            .all(|cache| cache["enabled"] == false)
    );
    let on = a.operator(Method::PUT, "/caches/enabled", Some(json!(true)));
    assert_eq!(on.await.0, 204);
    for token in ["", "a token of another", "a token of the tes"] {
        let url = format!("{}/caches/values", a.operators);
        let denied = a.ask(Method::DELETE, url, token, None).await;
        assert_eq!(denied, (403, String::new()), "{token}");
    }
    let cleared = a.operator(Method::DELETE, "/caches/values", None).await;
    assert_eq!(cleared.0, 204);
    // When the message has reached it.
    eventually(
        "the session is cleared on the other instance, too",
        async || b.shop(Method::GET, &session, None).await.0 == 401,
    )
    .await;

    // Metrics are handed over once a second.
    let loads = "larder_loads_total{namespace=\"shop:product\"";
    eventually("the metrics are there", async || {
        let (_, text) = a.operator(Method::GET, "/metrics", None).await;
        text.contains(loads)
    })
    .await;

    // Without Redis.
    redis.kill();
    eventually("the outage is noticed", async || {
        b.caches().await.iter().all(|cache| cache["ok"] == false)
    })
    .await;
    for path in ["/live", "/ready"] {
        assert_eq!(b.operator(Method::GET, path, None).await.0, 200, "{path}");
    }
    assert_eq!(b.shop(Method::GET, "/products/7", None).await.0, 404);
    assert_eq!(
        b.shop(Method::DELETE, &session, None).await.0,
        204,
        "it is deferred"
    );
    assert_eq!(b.shop(Method::POST, "/login/42", None).await.0, 500);

    // With Redis again, the end sends what is deferred.
    redis.restart().await;
    b.program.signal("TERM");
    assert_eq!(b.program.exit_code().await, Some(0));
}

/// At SIGHUP. Those that cannot work change nothing.
#[tokio::test]
async fn settings_are_read_again() {
    let redis = RedisServer::start().await;
    let dir = Dir::new();
    let a = Service::start(&dir, "a.log", &redis).await;
    let hang_up = async |settings: Value, expected: &str| {
        let text = settings.to_string();
        std::fs::write(dir.join("settings.json"), text).unwrap();
        a.program.signal("HUP");
        eventually("the settings are read", async || {
            a.program.stderr().contains(expected)
        })
        .await;
    };
    let url = redis.url();
    let changed =
        json!({ "redis": &url, "session": { "l1_capacity": 9 }, "product": { "enabled": false } });
    hang_up(
        changed,
        "shop:product: changed [\"enabled\"], after a restart []",
    )
    .await;
    let caches = a.caches().await;
    assert_eq!(
        (&caches[0]["enabled"], &caches[1]["enabled"]),
        (&json!(false), &json!(true))
    );
    let wrong = json!({ "redis": &url, "jitter": 7 });
    hang_up(wrong, "settings were not applied: ").await;
    assert_eq!(a.caches().await[0]["enabled"], false);
    let partitions = json!({ "redis": &url, "partitions": 2 });
    hang_up(
        partitions,
        "shop:product: changed [\"enabled\"], after a restart [\"partitions\"]",
    )
    .await;
    assert_eq!(a.caches().await[0]["enabled"], true);
}
