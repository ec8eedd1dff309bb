//! Chromium without a window, and the shop whose page it shows.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use futures::FutureExt;
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::{ParseError, Url};

use crate::support::program::{Dir, Program};

/// How long a button may take to say what it has seen.
const PATIENCE: Duration = Duration::from_secs(90);

/// The page of a shop that runs.
pub(crate) struct Page {
    pub(crate) client: Client,
    /// Where the shop is.
    pub(crate) origin: String,
}

/// Opens the page of a shop with these options for a test. Skipped where Chromium or its driver is missing.
pub(crate) async fn visit(options: &[&str], test: impl AsyncFnOnce(&Page)) {
    for program in ["chromium", "chromedriver"] {
        let version = Command::new(program).arg("--version").output().await;
        if version.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            eprintln!("skipped: {program} is not in the path");
            return;
        }
    }
    let dir = Dir::new();
    let (mut shop, origin, _mark) = start_shop(options, &dir).await;
    let (mut driver, address) = start_driver().await;
    let client = connect(&address, &dir).await;
    let page = Page { client, origin };
    // Chromium ends with its session, so that has to end when the test fails, too.
    let steps = async {
        page.client.goto(&page.origin).await.unwrap();
        test(&page).await;
    };
    let outcome = AssertUnwindSafe(steps).catch_unwind().await;
    page.client.close().await.unwrap();
    driver.kill().await.unwrap();
    shop.signal("TERM");
    assert_eq!(shop.exit_code().await, Some(0));
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// Starts a shop on a hundred ports that nobody uses. `tests/examples/shop.rs` takes others, by the same mark.
async fn start_shop(options: &[&str], dir: &Dir) -> (Program, String, UdpSocket) {
    loop {
        let port = 12_000 + fastrand::u16(..79) * 100;
        let Ok(mark) = UdpSocket::bind(("127.0.0.1", port)) else {
            continue;
        };
        let mut options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        options.push(format!("--port={port}"));
        let mut shop = Program::start("shop", &options, dir.join("log"));
        // It ends if another program has one of the ports.
        if shop.next_line().await.is_some() {
            return (shop, format!("http://127.0.0.1:{port}/"), mark);
        }
        assert!(shop.stderr().contains("--port"), "{}", shop.stderr());
    }
}

/// Starts the driver on a free port, which it prints.
async fn start_driver() -> (Child, String) {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").kill_on_drop(true);
    let mut driver = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, port)) = line.split_once("successfully on port ") {
            let address = format!("http://127.0.0.1:{}/", port.trim_end_matches('.'));
            // Kept open: the driver goes on to print.
            tokio::spawn(async move {
                while lines.next_line().await.is_ok_and(|line| line.is_some()) {}
            });
            return (driver, address);
        }
    }
    panic!("chromedriver does not start");
}

async fn connect(driver: &str, dir: &Dir) -> Client {
    let profile = format!("--user-data-dir={}", dir.join("profile").display());
    let options = json!({
        "args": [
            "--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage", &profile,
            // Root may not use the sandbox, and the page is our own.
            "--no-sandbox",
            // Neither the page nor Chromium itself reaches another host.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ],
        "perfLoggingPrefs": { "enableNetwork": true, "enablePage": false },
    });
    let Value::Object(capabilities) = json!({
        "goog:chromeOptions": options,
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    }) else {
        unreachable!("it is an object");
    };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder.capabilities(capabilities);
    builder.connect(driver).await.unwrap()
}

/// A command that only the driver of Chromium has.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Page {
    async fn own(&self, path: &'static str, body: Value) -> Value {
        let done: Result<Value, CmdError> = self.client.issue_cmd(Own { path, body }).await;
        done.unwrap()
    }

    /// Sets the size of the window, and which colours its user prefers.
    pub(crate) async fn looks(&self, width: u32, height: u32, scheme: &str) {
        for (cmd, params) in [
            (
                "Emulation.setDeviceMetricsOverride",
                json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 }),
            ),
            (
                "Emulation.setEmulatedMedia",
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
            ),
        ] {
            self.own("goog/cdp/execute", json!({ "cmd": cmd, "params": params }))
                .await;
        }
    }

    /// What was logged since this was asked last.
    pub(crate) async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.own("se/log", json!({ "type": kind })).await;
        log.as_array().unwrap().clone()
    }

    /// The value of an expression in the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        self.client.execute(&script, vec![]).await.unwrap()
    }

    pub(crate) async fn is(&self, condition: &str) -> bool {
        self.value(condition).await == true
    }

    /// Presses a button of “Try it”.
    pub(crate) async fn press(&self, title: &str) {
        let card = format!("//div[starts-with(@class, 'action')][h3='{title}']//button");
        let button = self.client.find(Locator::XPath(&card)).await.unwrap();
        button.click().await.unwrap();
    }

    /// What the button says that it has seen. Fails if that was not what it promises.
    pub(crate) async fn verdict(&self, title: &str) -> String {
        let said = format!(
            "//div[starts-with(@class, 'action')][h3='{title}']/p[contains(@class, 'seen ')]"
        );
        let wait = self.client.wait().at_most(PATIENCE);
        let said = wait.for_element(Locator::XPath(&said)).await;
        let said = said.unwrap_or_else(|_| panic!("{title}: nothing for {PATIENCE:?}"));
        let text = said.text().await.unwrap();
        assert_eq!(
            said.attr("class").await.unwrap().unwrap(),
            "seen good",
            "{title}: {text}"
        );
        println!("{title}: {text}");
        text
    }
}
