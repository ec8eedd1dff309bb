//! A release: this test program once more, which runs [`a_release_to_be_run`] alone, and does what it is told.

use std::convert::Infallible;
use std::env;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use larder::{Builder, Cache, Loaded, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::eventually::eventually;

/// Its environment: which release it is, and the URL of its server.
const TASK: &str = "LARDER_TEST_RELEASE";
/// Generous, because a busy test machine is no reason to fail.
const LIMIT: Duration = Duration::from_secs(30);
/// What an answer begins with: the test harness prints to the same pipe.
const ANSWER: &str = "answer: ";

/// How a release differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    SchemaVersion,
    Shape,
    Json,
    Namespace,
    Partitions,
}

const KINDS: [Kind; 6] = [
    Kind::Plain,
    Kind::SchemaVersion,
    Kind::Shape,
    Kind::Json,
    Kind::Namespace,
    Kind::Partitions,
];

/// A running release; killed when dropped.
pub(crate) struct Release {
    _process: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Release {
    pub(crate) async fn start(kind: Kind, redis: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "release::a_release_to_be_run",
                "--include-ignored",
                "--nocapture",
            ])
            .env(TASK, format!("{kind:?}\n{redis}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut release = Self {
            commands: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        };
        assert_eq!(release.answer().await, "ready");
        release
    }

    /// Has it do something, and returns what it says.
    pub(crate) async fn ask(&mut self, command: &str) -> String {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
        self.answer().await
    }

    /// Asks until it says so.
    pub(crate) async fn until(&mut self, command: &str, answer: &str) {
        let mut said = String::new();
        for _ in 0..LIMIT.as_millis() / 10 {
            said = self.ask(command).await;
            if said == answer {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{command}: {said}, and never {answer}");
    }

    async fn answer(&mut self) -> String {
        loop {
            let line = timeout(LIMIT, self.answers.next_line()).await;
            let line = line.expect("it answers").unwrap().expect("it runs");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.to_owned();
            }
        }
    }
}

#[tokio::test]
#[ignore = "the other tests run it in processes of their own"]
async fn a_release_to_be_run() {
    let Ok(task) = env::var(TASK) else {
        return;
    };
    let (kind, redis) = task.split_once('\n').unwrap();
    let kind = KINDS.into_iter().find(|one| format!("{one:?}") == kind);
    match kind.unwrap() {
        Kind::Plain => serve::<Text>(Cache::builder("test:deploy").redis(redis)).await,
        Kind::SchemaVersion => {
            let builder = Cache::builder("test:deploy").redis(redis);
            serve::<Text>(builder.schema_version(1)).await;
        }
        Kind::Shape => serve::<Longer>(Cache::builder("test:deploy").redis(redis)).await,
        Kind::Json => {
            #[cfg(feature = "json")]
            {
                let builder = Cache::builder("test:deploy").redis(redis);
                serve::<Text>(builder.codec(larder::codec::Json)).await;
            }
        }
        Kind::Namespace => serve::<Text>(Cache::builder("test:other").redis(redis)).await,
        Kind::Partitions => {
            serve::<Text>(Cache::builder("test:deploy").redis(redis).partitions(4)).await;
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Text {
    text: String,
}

/// The type in the next release.
#[derive(Serialize, Deserialize)]
struct Longer {
    text: String,
    length: usize,
}

trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {
    fn of(text: &str) -> Self;
    fn text(&self) -> &str;
}

impl Value for Text {
    fn of(text: &str) -> Self {
        let text = text.to_owned();
        Self { text }
    }

    fn text(&self) -> &str {
        &self.text
    }
}

impl Value for Longer {
    fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            length: text.len(),
        }
    }

    fn text(&self) -> &str {
        assert_eq!(self.text.len(), self.length);
        &self.text
    }
}

/// Carries out commands until there are no more.
async fn serve<V: Value>(builder: Builder<String, V>) {
    let builder = builder
        .l2_timeout(LIMIT / 6)
        .max_staleness(Duration::from_millis(500))
        .jitter(0.0);
    let (cache, loads) = (builder.build().unwrap(), Arc::new(AtomicUsize::new(0)));
    cache.ready().await;
    say("ready");
    // A thread of its own reads: it waits for the parent.
    let (sender, mut commands) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    #[cfg(feature = "write-behind")]
    let behind = Behind::new(&cache);
    while let Some(command) = commands.recv().await {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = match words[..] {
            ["load", key, text] => {
                let loads = Arc::clone(&loads);
                let text = text.to_owned();
                let load = || async move {
                    loads.fetch_add(1, SeqCst);
                    Ok::<_, Infallible>(V::of(&text))
                };
                let entry = cache.get_or_load(key, load).await.unwrap();
                entry.text().to_owned()
            }
            ["get", key] => {
                let entry = cache.get(key).await;
                entry.map_or_else(|| "nothing".to_owned(), |entry| entry.text().to_owned())
            }
            ["insert", key, text] => {
                cache.insert(key, V::of(text)).await.unwrap();
                "done".to_owned()
            }
            #[cfg(feature = "write-behind")]
            ["append", key, text] => {
                behind.cache.insert(key, V::of(text)).await.unwrap();
                "done".to_owned()
            }
            #[cfg(feature = "write-behind")]
            ["written"] => behind.written.lock().unwrap().join(" "),
            ["load_for", ttl, key, text] => {
                let ttl = Duration::from_millis(ttl.parse().unwrap());
                let value = Loaded::new(V::of(text)).ttl(ttl);
                let load = |_| async { Ok::<_, Infallible>(value) };
                let entry = cache.get_or_load_with(key, load).await.unwrap();
                entry.text().to_owned()
            }
            // A lock: the value is stored if the key has none.
            ["claim", key, text] => {
                let claimed = cache.insert_if(key, V::of(text), Version::ABSENT).await;
                claimed.unwrap().is_some().to_string()
            }
            ["invalidate", key] => {
                cache.invalidate_and_wait(key).await.unwrap();
                "done".to_owned()
            }
            ["forget"] => {
                cache.set_enabled(false);
                cache.set_enabled(true);
                eventually("L1 is empty", || async { cache.get_local("k").is_none() }).await;
                "done".to_owned()
            }
            ["loads"] => loads.load(SeqCst).to_string(),
            ["errors"] => {
                let stats = cache.stats();
                format!("{} {}", stats.decode_errors, stats.other_shapes)
            }
            _ => panic!("unknown: {command}"),
        };
        say(&answer);
    }
}

/// A cache whose writes reach their source later, and the texts that have reached it.
#[cfg(feature = "write-behind")]
struct Behind<V: Value> {
    cache: larder::write_behind::WriteBehind<String, V>,
    written: Arc<std::sync::Mutex<Vec<String>>>,
}

#[cfg(feature = "write-behind")]
impl<V: Value> Behind<V> {
    fn new(cache: &Cache<String, V>) -> Self {
        let written = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let source = Arc::clone(&written);
        let store = move |batch: Vec<larder::write_behind::Write<String, V>>| {
            let texts = batch.iter().map(|write| write.value.text().to_owned());
            source.lock().unwrap().extend(texts);
            std::future::ready(Ok::<_, Infallible>(()))
        };
        let builder = larder::write_behind::WriteBehind::builder(cache.clone());
        Self {
            cache: builder.store(store).build().unwrap(),
            written,
        }
    }
}

fn say(answer: &str) {
    println!("{ANSWER}{answer}");
    stdout().flush().unwrap();
}
