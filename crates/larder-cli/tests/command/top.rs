//! `larder top`: in a terminal of its own, and as one screen.

use std::time::Duration;

use larder::l2::deadpool_redis::redis::{AsyncCommands, cmd};
use larder::{Cache, RedisL2};
use serde_json::Value;

use super::program::{Fixture, NAMESPACE, cache, json, larder};
use super::support::eventually::eventually;
use super::support::redis_server::RedisServer;
use super::support::signal;
use super::terminal::Terminal;

/// The word of a column in the row of the namespace.
fn cell<'a>(text: &'a str, column: &str) -> Option<&'a str> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("namespace "));
    let at = lines
        .next()?
        .split_whitespace()
        .position(|name| name == column)?;
    let row = lines.find(|line| line.starts_with(NAMESPACE))?;
    row.split_whitespace().nth(at)
}

/// How many rows are about the namespace: its own, and one for each member. The members come last, and a screen may
/// arrive in parts.
fn rows(text: &str) -> usize {
    text.lines().filter(|line| line.contains(NAMESPACE)).count()
}

const LIVE: [&str; 3] = ["top", "--every", "100ms"];

impl Fixture {
    fn top(&self, columns: u16) -> Terminal {
        Terminal::start(columns, &self.url(), &LIVE)
    }
}

#[tokio::test]
async fn it_draws_and_follows_changes() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut top = shop.top(100);
    let text = top.shows("the cache", |text| rows(text) == 2).await;
    assert_eq!(cell(&text, "inst"), Some("1"), "{text}");
    assert!(
        text.starts_with("larder top, every 100ms; q ends it"),
        "{text}"
    );
    assert!(
        text.contains(&format!("127.0.0.1:{}", shop.server.port())),
        "{text}"
    );
    assert_eq!(cell(&text, "log"), Some("0"), "{text}");
    assert!(top.screen().alternate_screen(), "{text}");

    let other = cache(&shop.url(), |builder| builder);
    other.ready().await;
    top.shows("another instance", |text| cell(text, "inst") == Some("2"))
        .await;
    shop.cache.insert("tea", "450".to_owned()).await.unwrap();
    top.shows("a change", |text| cell(text, "log") == Some("1"))
        .await;
    top.shows("a note", |text| {
        let mut rows = text.lines().skip_while(|line| !line.starts_with("member "));
        rows.any(|row| row.contains(NAMESPACE) && !row.contains('>'))
    })
    .await;

    other.close().await;
    top.shows("one that has left", |text| cell(text, "inst") == Some("1"))
        .await;

    top.press("q").await;
    top.shows("its end", |text| text.contains("exit code 0"))
        .await;
    assert_eq!(top.end().await, Some(0));
    top.is_restored();
}

#[tokio::test]
async fn it_fits_forty_columns() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut top = shop.top(40);
    let text = top.shows("the cache", |text| rows(text) == 2).await;
    assert!(cell(&text, "chg/s").is_some(), "{text}");
    // Whole columns are left out, and no word is cut.
    assert!(
        !text.contains('…') && cell(&text, "log").is_none(),
        "{text}"
    );
    assert!(
        text.contains("member ") && text.contains("q ends it"),
        "{text}"
    );

    top.resize(100);
    top.shows("more columns", |text| cell(text, "log").is_some())
        .await;
    top.press("\u{3}").await;
    top.shows("its end by ctrl-c", |text| text.contains("exit code 0"))
        .await;
    top.end().await;
    top.is_restored();
}

#[tokio::test]
async fn it_says_that_redis_is_away_and_goes_on() {
    let mut shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut top = shop.top(80);
    top.shows("the cache", |text| cell(text, "inst") == Some("1"))
        .await;
    shop.server.kill();
    let away = format!("{NAMESPACE}: L2 cannot be reached");
    top.shows("that it is away", |text| text.contains(&away))
        .await;
    shop.server.restart().await;
    shop.cache.insert("tea", "450".to_owned()).await.ok();
    top.shows("the cache again", |text| {
        !text.contains(&away) && cell(text, "inst") == Some("1")
    })
    .await;
}

#[tokio::test]
async fn q_ends_it_while_redis_hangs() {
    let mut shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut top = shop.top(80);
    top.shows("the cache", |text| cell(text, "inst") == Some("1"))
        .await;
    shop.server.pause();
    // From here on it waits for an answer nearly all the time.
    top.shows("that it hangs", |text| {
        text.contains(&format!("{NAMESPACE}: L2 "))
    })
    .await;
    top.press("q").await;
    top.shows("its end", |text| text.contains("exit code 0"))
        .await;
    top.end().await;
    top.is_restored();
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    for name in ["TERM", "INT", "HUP"] {
        let mut top = Terminal::start_alone(80, &shop.url(), &LIVE);
        top.shows("the cache", |text| cell(text, "inst").is_some())
            .await;
        signal::send(top.id(), name);
        assert_eq!(top.end().await, Some(0));
        let screen = top.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor());
    }
}

#[tokio::test]
async fn the_help_of_each_command_fits_the_terminal() {
    for command in [
        "inspect",
        "check",
        "tail",
        "top",
        "dead-letters",
        "invalidate",
        "expire",
        "tag",
        "prefix",
        "clear",
        "switch",
    ] {
        let mut help = Terminal::start_alone(40, "redis://host", &[command, "--help"]);
        assert_eq!(help.end().await, Some(0));
        let (screen, text) = (help.screen(), help.text());
        assert!(text.contains("-h, --help"), "{text}");
        assert!(!(0..30).any(|row| screen.row_wrapped(row)), "{text}");
    }
}

/// What fails from the start is a line, on the screen that was there before.
#[tokio::test]
async fn what_fails_at_the_start_is_one_clear_line() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut user = cmd("ACL");
    user.arg(&[
        "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-scan",
    ]);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();
    let as_app = format!("redis://app:secret@127.0.0.1:{}", shop.server.port());
    let no_right = "NOPERM: the Redis user may not run scan";
    let once = larder(&as_app, &["top", "--once"]).await;
    once.is_one_clear_line(1, no_right);
    let named = ["top", NAMESPACE, "--once", "--every", "100ms"];
    let once = larder(&as_app, &named).await;
    assert_eq!((once.code, &*once.stderr), (Some(0), ""), "{once:?}");

    let mut user = cmd("ACL");
    user.arg(&["SETUSER", "app", "-evalsha_ro"]);
    let () = user.query_async(&mut shop.redis().await).await.unwrap();
    larder(&as_app, &named)
        .await
        .is_one_clear_line(1, "may not run evalsha_ro");
    larder(&shop.url(), &["top", "shop:prize", "--once"])
        .await
        .is_one_clear_line(1, "no cache in Redis has the name shop:prize");
    larder(&shop.url(), &["top"])
        .await
        .is_one_clear_line(1, "stdout is no terminal: give --once for one screen");

    let url = shop.url();
    drop(shop);
    larder(&url, &["top", "--once"])
        .await
        .is_one_clear_line(1, "L2 cannot be reached");
    let mut top = Terminal::start(200, &url, &LIVE);
    top.shows("its end", |text| text.contains("exit code 1"))
        .await;
    top.end().await;
    top.is_restored();
    let text = top.text();
    let said: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("exit code"))
        .collect();
    assert!(
        said.len() == 1 && said[0].starts_with("larder: L2 cannot be reached"),
        "{text}"
    );
}

/// The look-ups of the first namespace that a level has answered. A slow machine may need L2 where L1 has the entry.
pub(super) fn hits(top: &Value) -> u64 {
    let counters = &top["namespaces"][0]["counters"];
    let of = |level: &str| counters[level].as_u64().unwrap();
    of("l1_hits") + of("l2_hits")
}

#[tokio::test]
async fn one_screen() {
    let server = RedisServer::start_with(&["--maxmemory", "512mb"]).await;
    let url = server.url();
    let no_cache = larder(&url, &["top", "--once"]).await;
    no_cache.is_one_clear_line(1, "Redis has no cache");

    let many = cache(&url, |builder| {
        builder
            .partitions(4)
            .max_staleness(Duration::from_millis(100))
    });
    many.ready().await;
    for key in 0..20 {
        many.insert(&format!("k{key}"), "450".to_owned())
            .await
            .unwrap();
    }
    for _ in 0..3 {
        many.get("k1").await.unwrap();
    }
    many.get("other").await;
    let once = ["top", "--once", "--every", "100ms"];
    // Counters reach Redis with a heartbeat.
    eventually("counters are stored", async || {
        hits(&json(&url, &once).await) == 3
    })
    .await;
    let shown = json(&url, &once).await;
    let shop = &shown["namespaces"][0];
    assert_eq!(
        (&shop["namespace"], &shop["partitions"]),
        (&NAMESPACE.into(), &4.into())
    );
    assert_eq!(
        (&shop["log"], &shop["hit_rate"]),
        (&20.into(), &0.75.into()),
        "{shop}"
    );
    assert_eq!(shop["counters"]["l2_misses"], 1, "{shop}");
    assert_eq!(
        (&shop["members"][0]["lag"], &shop["changes_per_second"]),
        (&0.into(), &0.0.into())
    );
    assert_eq!(shown["servers"][0]["maxmemory"], 512 << 20);
    assert!(
        shown["servers"][0]["used_memory"].as_u64() > Some(100_000),
        "{shown}"
    );
    assert!(shop["members"][0]["counted_ms"].is_u64(), "{shop}");
    assert_eq!(shop["members"][0]["is_silent"], false, "{shop}");
    assert_eq!(shop["members"][0]["release"], env!("CARGO_PKG_VERSION"));

    // Has crashed, and another one applies nothing.
    let mut redis = server.connection().await;
    for partition in 0..4 {
        let keys: Vec<String> = redis
            .keys(format!("{{shop:price.{partition}of4.*}}!live"))
            .await
            .unwrap();
        let _: u64 = redis.hset(&keys[0], "16", "1:0:30:7").await.unwrap();
    }
    let shown = larder(&url, &once).await;
    assert_eq!((shown.code, &*shown.stderr), (Some(0), ""), "{shown:?}");
    let silent = shown
        .stdout
        .lines()
        .find(|line| line.starts_with("10 "))
        .unwrap();
    assert!(silent.contains("silent >"), "{shown:?}");
    assert_eq!(cell(&shown.stdout, "lag"), Some("-"), "{shown:?}");
    assert!(shown.stdout.contains("of 512 MiB"), "{shown:?}");
    assert!(
        shown.stdout.lines().all(|line| line.chars().count() <= 80),
        "{shown:?}"
    );
}

/// However soon the second look is.
#[tokio::test]
async fn one_screen_counts_no_member_that_is_silent() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    shop.cache.close().await;
    let mut redis = shop.redis().await;
    let list = "{shop:price.0}!live";
    let _: u64 = redis.hset(list, "16", "0:0:1000:7").await.unwrap();
    let once = ["top", "--once", "--every", "100ms"];
    let shown = json(&shop.url(), &once).await;
    let members = &shown["namespaces"][0]["members"];
    assert_eq!(
        (&members[0]["id"], &members[0]["is_silent"]),
        (&"10".into(), &true.into())
    );
    let shown = larder(&shop.url(), &once).await;
    assert_eq!(cell(&shown.stdout, "inst"), Some("0"), "{shown:?}");
}

#[tokio::test]
async fn whether_a_cache_is_on() {
    let server = RedisServer::start().await;
    let url = server.url();
    let on = cache(&url, |builder| {
        builder.max_staleness(Duration::from_millis(100))
    });
    on.ready().await;
    on.insert("tea", "450".to_owned()).await.unwrap();
    let once = ["top", NAMESPACE, "--once", "--every", "100ms"];
    let shows = async |what: &'static str| {
        eventually(what, async || {
            let shown = larder(&url, &once).await;
            cell(&shown.stdout, "on") == Some(what)
        })
        .await;
    };
    shows("all").await;
    // For fewer keys, and with nothing else to tell.
    on.set_enabled_for(0.05);
    shows("5%").await;
    let shown = json(&url, &once).await;
    let shop = &shown["namespaces"][0];
    assert_eq!(shop["is_off"], false, "{shop}");
    assert!(
        (shop["members"].as_array().unwrap().iter()).any(|member| member["share"] == 0.05),
        "{shop}"
    );
    on.set_enabled_everywhere(false).await.unwrap();
    shows("off").await;
    assert_eq!(json(&url, &once).await["namespaces"][0]["is_off"], true);
    on.set_enabled_everywhere(true).await.unwrap();
    shows("5%").await;
    on.set_enabled(false);
    shows("0%").await;
}

/// A name of several that is wrong.
#[tokio::test]
async fn one_screen_names_what_is_unknown() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let names = ["top", NAMESPACE, "shop:prize", "--once", "--every", "100ms"];
    let shown = larder(&shop.url(), &names).await;
    assert_eq!(cell(&shown.stdout, "inst"), Some("1"), "{shown:?}");
    assert_eq!(
        (shown.code, shown.stderr.lines().count()),
        (Some(1), 1),
        "{shown:?}"
    );
    let told = "larder: no cache in Redis has the name shop:prize; the nearest: shop:price (at ";
    assert!(shown.stderr.starts_with(told), "{shown:?}");
}

/// However many caches it shows, and for however long.
#[tokio::test]
async fn it_takes_one_connection() {
    let server = RedisServer::start().await;
    let url = server.url();
    // They share theirs.
    let l2 = RedisL2::open(&*url).unwrap();
    let caches = (0..10).map(|number| {
        let name = format!("shop:{number}");
        let builder = Cache::<String, String>::builder(&name).l2(l2.clone());
        builder.partitions(4).build().unwrap()
    });
    let caches: Vec<_> = caches.collect();
    for cache in &caches {
        cache.ready().await;
    }
    let redis = server.connection().await;
    let mut top = Terminal::start(80, &url, &LIVE);
    top.shows("all caches", |text| text.contains("shop:9 "))
        .await;
    // The rate of a second look.
    top.shows("another look", |text| {
        let row = text.lines().find(|line| line.starts_with("shop:9 "));
        row.is_some_and(|row| row.split_whitespace().nth(5) == Some("0.0"))
    })
    .await;
    // Those of caches have names. Besides there are that of the test and, until it is closed, that of the scan.
    eventually("it has one connection", async || {
        let (mut list, mut redis) = (cmd("CLIENT"), redis.clone());
        let clients: String = list.arg("LIST").query_async(&mut redis).await.unwrap();
        clients.matches(" name= ").count() == 2
    })
    .await;
}

#[tokio::test]
async fn what_has_no_room_is_counted() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let l2 = RedisL2::open(&*url).unwrap();
    let caches = (10..50).map(|number| {
        let name = format!("shop:{number}");
        let builder = Cache::<String, String>::builder(&name).l2(l2.clone());
        builder.build().unwrap()
    });
    let caches: Vec<_> = caches.collect();
    for cache in &caches {
        cache.ready().await;
    }
    let mut top = Terminal::start(80, &url, &LIVE);
    let text = top
        .shows("how many are left out", |text| {
            text.lines().any(|line| line.starts_with("and "))
        })
        .await;
    let shown = text
        .lines()
        .filter(|line| line.starts_with("shop:"))
        .count();
    assert!(text.contains(&format!("and {} more", 40 - shown)), "{text}");
    let once = larder(&url, &["top", "--once", "--every", "100ms"]).await;
    let rows = once
        .stdout
        .lines()
        .filter(|line| line.starts_with("shop:"))
        .count();
    assert_eq!(rows, 40, "{once:?}");

    server.kill();
    let text = top
        .shows("an error", |text| text.contains("and 39 more: L2 "))
        .await;
    assert!(text.contains("shop:10 "), "{text}");
}

#[tokio::test]
async fn a_scan_is_bounded() {
    let shop = Fixture::new().await;
    shop.cache.ready().await;
    let mut redis = shop.redis().await;
    let mut fill = cmd("EVAL");
    fill.arg("for i = 1, 20000 do redis.call('SET', 'x' .. i, i) end")
        .arg(0);
    let () = fill.query_async(&mut redis).await.unwrap();
    let once = ["top", "--once", "--every", "100ms"];
    let all = json(&shop.url(), &once).await;
    assert_eq!(
        (&all["are_all"], &all["namespaces"][0]["namespace"]),
        (&true.into(), &NAMESPACE.into())
    );
    let few = larder(&shop.url(), &[&once[..], &["--scan", "1000"]].concat()).await;
    // Whether its clock is among the first names is up to the server.
    if few.code == Some(0) {
        assert!(few.says("not all keys were scanned"), "{few:?}");
    } else {
        few.is_one_clear_line(1, "no cache was found: give its name, or a larger --scan");
    }
}
