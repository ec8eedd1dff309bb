//! The shop of seven services, as its customers and its page use it.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncConnectionConfig, Client as Redis, cmd};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::eventually::eventually;
use crate::support::program::{Dir, Program, run};

/// How many ports a shop uses, and where the first of them may be: no other test uses those.
const PORTS: u16 = 100;
const FIRST: u16 = 12_000;
const BLOCKS: u16 = 79;

/// Where a shop may be, and what keeps other tests from there.
fn some_ports() -> (u16, UdpSocket) {
    loop {
        let port = FIRST + fastrand::u16(..BLOCKS) * PORTS;
        if let Ok(mark) = UdpSocket::bind(("127.0.0.1", port)) {
            return (port, mark);
        }
    }
}

struct Shop {
    port: u16,
    program: Program,
    client: Client,
    dir: Dir,
    _mark: UdpSocket,
}

impl Shop {
    /// Starts all services, on ports that nobody uses.
    async fn start(arguments: &[&str]) -> Self {
        loop {
            let (port, mark) = some_ports();
            let dir = Dir::new();
            let mut given = vec![
                format!("--port={port}"),
                format!("--data={}", dir.join("data").display()),
            ];
            given.extend(arguments.iter().map(|&argument| argument.to_owned()));
            // A busy machine is no reason to fail.
            let patient = [("SHOP_CACHE_L2_TIMEOUT", "5s".to_owned())];
            let mut program = Program::start_with(&patient, "shop", &given, dir.join("log"));
            // It ends if another program has one of the ports.
            let Some(line) = program.next_line().await else {
                assert!(program.stderr().contains("--port"), "{}", program.stderr());
                continue;
            };
            assert_eq!(
                line,
                format!("the shop is at http://127.0.0.1:{port}; Ctrl-C ends it\n")
            );
            let client = Client::builder()
                .no_proxy()
                .cookie_store(true)
                .build()
                .unwrap();
            return Self {
                port,
                program,
                client,
                dir,
                _mark: mark,
            };
        }
    }

    async fn ask(
        &self,
        gateway: u16,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.port + gateway);
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(0, Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Whether this is so of each element of an answer.
    async fn all(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> bool {
        let answer = self.get(path).await;
        answer.as_array().unwrap().iter().all(is_so)
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(0, Method::POST, path, Some(body)).await
    }

    async fn log_in(&self, user: u64) {
        let login = json!({ "login": format!("user-{user}"), "password": "tea" });
        assert_eq!(self.post("/api/login", login).await.0, 200);
    }

    async fn buy(&self, product: u64) -> u16 {
        let order = json!({ "product": product, "card": CARD });
        self.post("/api/orders", order).await.0
    }

    /// Whether all that the services keep in caches is known to be in order.
    async fn is_well(&self) -> bool {
        let is_well = |instance: &Value| {
            let caches = instance["caches"].as_array().unwrap();
            instance["is_down"] == false && caches.iter().all(|cache| cache["is_l2_up"] == true)
        };
        self.all("/operate/report", is_well).await
    }

    async fn end(mut self) {
        self.program.signal("TERM");
        assert_eq!(self.program.exit_code().await, Some(0));
        assert_eq!(self.taken_ports(), [0; 0]);
    }

    /// Where something still listens that it has started.
    fn taken_ports(&self) -> Vec<u16> {
        let is_taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
        (self.port..self.port + PORTS).filter(is_taken).collect()
    }
}

/// The port of the payment service, from the first on.
const PAYMENT: u16 = 50;
const CARD: &str = "4929123412341234";

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn a_customer_sees_what_is_so() {
    let shop = Shop::start(&[]).await;
    let page = shop.get("/products/7").await;
    assert_eq!(page["product"]["value"]["id"], 7, "{page}");
    assert_eq!(page["price_shown"], "€3.70");
    assert_eq!(
        shop.get("/products?category=green").await[0]["category"],
        "green"
    );
    assert_eq!(
        shop.ask(0, Method::GET, "/products/9999", None).await.0,
        404
    );

    // A new name is on the pages and lists of both gateways, however their paths are written.
    let paths = ["/products/7", "/products/%37", "/products?category=herbal"];
    for path in paths {
        for gateway in [0, 1] {
            shop.ask(gateway, Method::GET, path, None).await;
        }
    }
    let name = Some(json!("Earl Grey"));
    assert_eq!(
        shop.ask(0, Method::PUT, "/api/products/7/name", name)
            .await
            .0,
        204
    );
    for path in paths {
        for gateway in [0, 1] {
            // The message of the change may come after the answer to it.
            eventually("the new name is shown", async || {
                let (_, shown) = shop.ask(gateway, Method::GET, path, None).await;
                let product = match shown.as_array() {
                    Some(list) => list.iter().find(|product| product["id"] == 7).unwrap(),
                    None => &shown["product"]["value"],
                };
                product["name"] == "Earl Grey"
            })
            .await;
        }
    }

    // An account: its own change, an order, and the end of the session on all instances.
    assert_eq!(shop.buy(7).await, 401);
    shop.log_in(3).await;
    assert_eq!(
        shop.ask(1, Method::PUT, "/api/me/name", Some(json!("Ann")))
            .await
            .0,
        200
    );
    for _ in 0..4 {
        assert_eq!(shop.get("/api/me").await["name"], "Ann");
    }
    assert_eq!(shop.buy(7).await, 200);
    assert!(
        shop.all("/operate/sessions", |one| one["is_in"] == true)
            .await
    );
    assert_eq!(shop.post("/api/logout", json!(null)).await.0, 204);
    assert!(
        shop.all("/operate/sessions", |one| one["is_in"] == false)
            .await
    );

    // Neither the card nor the hash of a password is in a cache: Redis has all that an L1 has, and the service that
    // takes the card has none.
    let redis = Redis::open(format!("redis://127.0.0.1:{}", shop.port + 90)).unwrap();
    // A busy machine is no reason to fail.
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    let redis = redis.get_multiplexed_async_connection_with_config(&patient);
    let mut redis = redis.await.unwrap();
    let keys: Vec<Vec<u8>> = cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    assert!(keys.len() > 10, "{}", keys.len());
    // A value that is compressed hides its text.
    let mut plain = cmd("CONFIG");
    plain.arg("SET").arg("rdbcompression").arg("no");
    let () = plain.query_async(&mut redis).await.unwrap();
    for key in keys {
        let stored: Option<Vec<u8>> = cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap();
        let stored = stored.unwrap_or_default();
        let has = |text: &[u8]| {
            [CARD, "$argon2"]
                .iter()
                .any(|secret| contains(text, secret))
        };
        assert!(
            !has(&key) && !has(&stored),
            "{}",
            String::from_utf8_lossy(&key)
        );
    }
    let report = shop.get("/operate/report").await;
    let payment = report
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["service"] == "payment")
        .unwrap();
    assert_eq!(payment["caches"], json!([]));
    shop.end().await;
}

#[tokio::test]
async fn a_prometheus_finds_all_instances() {
    let shop = Shop::start(&[]).await;
    let targets = include_str!("../../examples/grafana/prometheus.yaml").split("127.0.0.1:");
    let ports = targets.skip(1).map(|rest| rest.split('"').next().unwrap());
    // Those of a shop whose first port is 8080.
    let ports: Vec<u16> = ports
        .map(|port| port.parse::<u16>().unwrap() - 8080)
        .collect();
    let instances = shop.get("/operate/report").await;
    assert_eq!(ports.len(), instances.as_array().unwrap().len());
    for port in ports {
        let url = format!("http://127.0.0.1:{}/internal/metrics", shop.port + port);
        let has_caches = async || {
            let metrics = shop.client.get(&url).send().await.unwrap();
            let metrics = metrics.error_for_status().unwrap().text().await.unwrap();
            metrics.contains("larder_l1_entries{namespace")
        };
        if port == PAYMENT {
            assert!(!has_caches().await);
        } else {
            // Gauges are written from time to time.
            eventually("it has metrics", has_caches).await;
        }
    }
    shop.end().await;
}

#[tokio::test]
async fn no_more_pieces_are_sold_than_there_are() {
    let shop = Shop::start(&[]).await;
    shop.log_in(5).await;
    assert_eq!(shop.post("/operate/stock/13", json!(3)).await.0, 204);
    let orders = (0..12).map(|_| shop.buy(13));
    let mut answers = futures::future::join_all(orders).await;
    answers.sort_unstable();
    assert_eq!(answers, [[200; 3].as_slice(), &[409; 9]].concat());
    assert_eq!(shop.get("/products/13").await["stock"]["value"], 0);
    shop.end().await;
}

#[tokio::test]
async fn pages_go_on_while_parts_of_the_shop_fail() {
    let shop = Shop::start(&[]).await;
    let kill = async |what: &str| {
        let (status, answer) = shop
            .post(&format!("/operate/processes/{what}/kill"), json!(null))
            .await;
        assert_eq!(status, 200, "{answer}");
    };
    let start = async |what: &str| {
        let (status, answer) = shop
            .post(&format!("/operate/processes/{what}/start"), json!(null))
            .await;
        assert_eq!(status, 200, "{answer}");
    };
    let all_pages = async || {
        for id in 30..35 {
            assert_eq!(
                shop.get(&format!("/products/{id}")).await["product"]["value"]["id"],
                id
            );
        }
    };
    kill("product/1").await;
    all_pages().await;
    start("product/1").await;
    kill("redis").await;
    all_pages().await;
    start("redis").await;
    eventually("all caches are back", async || shop.is_well().await).await;

    // A piece whose database is broken is old, or missing, and the page says so.
    let broken = json!({ "slowed_by": 0, "is_broken": true });
    shop.post("/operate/databases/inventory", broken).await;
    let page = shop.get("/products/77").await;
    assert!(page["stock"]["missing"].is_string(), "{page}");
    assert_eq!(page["product"]["value"]["id"], 77);
    shop.end().await;
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_left_alone() {
    let shop = Shop::start(&[]).await;
    let told = async |what: &str| {
        let path = format!("/operate/processes/recommendation/0/{what}");
        assert_eq!(shop.post(&path, json!(null)).await.0, 200);
    };
    let are_open = async |are: bool| {
        let is_so = |one: &Value| {
            one["service"] != "gateway" || (one["broken_peers"] == json!(["recommendation"])) == are
        };
        // Pages go on, and each that is not in the cache asks.
        let page = shop
            .get(&format!("/products/7?{}", fastrand::u64(..)))
            .await;
        assert_eq!(page["product"]["value"]["id"], 7, "{page}");
        shop.all("/operate/report", is_so).await
    };
    assert!(are_open(false).await);
    told("kill").await;
    eventually("the breakers of both gateways open", async || {
        are_open(true).await
    })
    .await;
    told("start").await;
    eventually("they close", async || are_open(false).await).await;
    let page = shop.get("/products/8").await;
    assert!(page["together"]["value"].is_array(), "{page}");
    shop.end().await;
}

#[tokio::test]
async fn a_page_without_caches_is_made_from_the_databases() {
    let shop = Shop::start(&[]).await;
    shop.get("/products/7").await;
    for _ in 0..3 {
        let page = shop.get("/uncached/products/7").await;
        for piece in ["product", "price", "reviews", "stock", "together"] {
            assert_eq!(page[piece]["how"]["from"], "source", "{page}");
        }
    }
    // Beside it all are in caches.
    let page = shop.get("/products/7?beside").await;
    assert_ne!(page["price"]["how"]["from"], "source", "{page}");
    shop.end().await;
}

#[tokio::test]
async fn a_job_in_python_changes_recommendations() {
    let shop = Shop::start(&[]).await;
    shop.log_in(8).await;
    for product in [40, 41] {
        assert_eq!(shop.buy(product).await, 200);
    }
    assert_ne!(
        shop.get("/products/40").await["together"]["value"],
        json!([41])
    );
    let redis = format!("redis://127.0.0.1:{}", shop.port + 90);
    let job = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/shop/recompute.py"
    );
    let mut python = Command::new("python3");
    python.arg(job).arg(redis).arg(shop.dir.join("data"));
    match python.output().await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no python3");
        }
        done => {
            let done = done.unwrap();
            assert!(done.status.success(), "{done:?}");
            assert_eq!(done.stdout, b"2 of 2 have changed\n");
            eventually("the page has the new ones", async || {
                shop.get("/products/40").await["together"]["value"] == json!([41])
            })
            .await;
        }
    }
    shop.end().await;
}

#[tokio::test]
async fn it_runs_in_other_ways() {
    for way in ["--in-process", "--by-hand", "--without-cache"] {
        let shop = Shop::start(&[way]).await;
        assert_eq!(
            shop.get("/products/7").await["product"]["value"]["id"],
            7,
            "{way}"
        );
        shop.log_in(3).await;
        assert_eq!(shop.buy(7).await, 200, "{way}");
        shop.end().await;
    }
}

#[tokio::test]
async fn it_runs_over_a_cluster() {
    let shop = Shop::start(&["--cluster"]).await;
    for id in 7..12 {
        let path = format!("/api/products/{id}/name");
        let renamed = shop.ask(0, Method::PUT, &path, Some(json!("Earl Grey")));
        assert_eq!(renamed.await.0, 204);
        for gateway in [0, 1] {
            let path = format!("/products/{id}");
            let (_, page) = shop.ask(gateway, Method::GET, &path, None).await;
            assert_eq!(page["product"]["value"]["name"], "Earl Grey");
        }
    }
    shop.log_in(3).await;
    assert_eq!(shop.buy(7).await, 200);
    shop.end().await;
}

#[tokio::test]
async fn a_page_that_is_open_does_not_hold_up_the_end() {
    let mut shop = Shop::start(&[]).await;
    let live = format!("http://127.0.0.1:{}/live", shop.port);
    let mut live = shop.client.get(live).send().await.unwrap();
    assert!(live.chunk().await.unwrap().is_some());
    shop.program.signal("TERM");
    assert_eq!(shop.program.exit_code().await, Some(0));
    // All have ended by themselves.
    assert_eq!(shop.program.stderr(), "");
}

#[tokio::test]
async fn nothing_is_left_of_a_shop_that_is_killed() {
    let mut shop = Shop::start(&[]).await;
    assert_ne!(shop.taken_ports(), [0; 0]);
    // A Redis that is paused does not end by itself.
    shop.post("/operate/processes/redis/pause", json!(null))
        .await;
    shop.program.signal("KILL");
    assert_eq!(shop.program.exit_code().await, None);
    eventually("all has ended", async || shop.taken_ports().is_empty()).await;
}

#[tokio::test]
async fn it_keeps_its_promises_while_redis_is_paused() {
    loop {
        let ((port, _mark), dir) = (some_ports(), Dir::new());
        let port = format!("--port={port}");
        let given = ["faults", "--seconds=1", "--users=20", &port].map(str::to_owned);
        // A busy machine is no reason to fail.
        let patient = [("SHOP_CACHE_L2_TIMEOUT", "1s".to_owned())];
        let mut program = Program::start_with(&patient, "shop", &given, dir.join("log"));
        let mut shown = String::new();
        while let Some(line) = program.next_line().await {
            shown.push_str(&line);
        }
        let code = program.exit_code().await;
        if program.stderr().contains("choose another --port") {
            continue;
        }
        assert_eq!(code, Some(0), "{shown}");
        let mut rows = shown.lines();
        let row = rows.find(|line| line.starts_with("| Redis paused | 1 |"));
        assert!(row.is_some_and(|row| row.ends_with("| 0 |")), "{shown}");
        return;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let shown = run("shop", &[&format!("--port={port}"), "--in-process"]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(shown.stderr.contains("choose another --port"), "{shown:?}");
}
