//! Options that cannot work are refused by `build`, which needs no runtime and no server.

use std::time::Duration;

use larder::{BuildError, Builder, Cache, Mode};

type Texts = Cache<String, String>;

fn refused(set: impl FnOnce(Builder<String, String>) -> Builder<String, String>) -> BuildError {
    set(Texts::builder("test:options"))
        .build()
        .map(|_| ())
        .unwrap_err()
}

fn available(limit: Duration) -> Mode {
    Mode::Available { limit }
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let (zero, second, minute) = (
        Duration::ZERO,
        Duration::from_secs(1),
        Duration::from_secs(60),
    );
    let cases = [
        (refused(|b| b.l1_ttl(zero)), "l1_ttl"),
        (refused(|b| b.l2_ttl(zero)), "l2_ttl"),
        (refused(|b| b.soft_ttl(zero)), "soft_ttl"),
        (refused(|b| b.sliding(zero)), "sliding"),
        (refused(|b| b.sliding(minute).l2_ttl(minute)), "sliding"),
        (refused(|b| b.soft_ttl(minute).l2_ttl(second)), "soft_ttl"),
        (refused(|b| b.soft_ttl(minute).l2_ttl(minute)), "soft_ttl"),
        (refused(|b| b.l1_ttl(minute).l2_ttl(second)), "l1_ttl"),
        (refused(|b| b.l2_ttl(Duration::MAX)), "l2_ttl"),
        (refused(|b| b.l2_ttl(Duration::from_micros(1))), "l2_ttl"),
        (refused(|b| b.max_staleness(zero)), "max_staleness"),
        (
            refused(|b| b.max_staleness(Duration::from_millis(9))),
            "max_staleness",
        ),
        (
            refused(|b| b.max_staleness(Duration::from_millis(3_600_001))),
            "max_staleness",
        ),
        (refused(|b| b.l2_timeout(zero)), "l2_timeout"),
        (refused(|b| b.load_timeout(zero)), "load_timeout"),
        (refused(|b| b.lease_ttl(zero)), "lease_ttl"),
        (refused(|b| b.lease_wait(Duration::MAX)), "lease_wait"),
        (
            refused(|b| b.stale_if_error(Duration::MAX)),
            "stale_if_error",
        ),
        (
            refused(|b| b.fallback_throttle(Duration::MAX)),
            "fallback_throttle",
        ),
        (refused(|b| b.error_ttl(Duration::MAX)), "error_ttl"),
        (refused(|b| b.stale_wait(Duration::MAX / 2)), "stale_wait"),
        (refused(|b| b.jitter(-0.1)), "jitter"),
        (refused(|b| b.jitter(0.6)), "jitter"),
        (refused(|b| b.jitter(f64::NAN)), "jitter"),
        (refused(|b| b.max_value_size(0)), "max_value_size"),
        (refused(|b| b.max_value_size(usize::MAX)), "max_value_size"),
        (refused(|b| b.max_deferred(0)), "max_deferred"),
        (refused(|b| b.mode(available(zero))), "the limit of Mode"),
        (
            refused(|b| b.mode(available(Duration::MAX))),
            "the limit of Mode",
        ),
        (
            refused(|b| b.max_concurrent_loads(0)),
            "max_concurrent_loads",
        ),
        (
            refused(|b| b.max_concurrent_loads(usize::MAX)),
            "max_concurrent_loads",
        ),
    ];
    for (error, name) in cases {
        assert!(
            error.mistakes().all(|mistake| mistake.starts_with(name)),
            "{error} does not begin with {name}"
        );
        assert_eq!(error.mistakes().count(), 1, "{error}");
        assert!(!error.is_bad_l2_config());
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = Texts::builder("catalog:product")
        .l2_ttl(Duration::from_secs(30))
        .soft_ttl(Duration::from_secs(60))
        .l1_ttl(Duration::ZERO)
        .max_deferred(0)
        .redis("http://127.0.0.1")
        .build()
        .map(|_| ())
        .unwrap_err();
    let named = ["l1_ttl", "soft_ttl", "max_deferred", "the Redis URL"];
    let mistakes: Vec<_> = error.mistakes().collect();
    assert_eq!(mistakes.len(), named.len(), "{error}");
    for (mistake, name) in mistakes.iter().zip(named) {
        assert!(mistake.starts_with(name), "{error}");
    }
    let said = error.to_string();
    assert!(said.starts_with("cannot build the cache \"catalog:product\": (1) l1_ttl "));
    assert!(said.contains(" (4) the Redis URL "), "{said}");
    assert!(error.is_bad_l2_config());
}

#[test]
fn namespaces_that_cannot_work_are_refused() {
    for namespace in ["", "a{b", "a}b", "a\nb", "a b", &"n".repeat(257)] {
        let error = Texts::builder(namespace).build().map(|_| ()).unwrap_err();
        assert!(
            error.to_string().contains("namespace"),
            "{namespace:?}: {error}"
        );
    }
    for namespace in ["catalog:product", "x", "größe", &"n".repeat(256)] {
        assert!(Texts::builder(namespace).build().is_ok(), "{namespace:?}");
    }
}

#[test]
fn redis_urls_that_cannot_work_are_refused_without_showing_the_password() {
    let urls = [
        "",
        "hunter2",
        "http://user:hunter2@127.0.0.1",
        "redis://user:hunter2@127.0.0.1:port",
        "redis://user:hunter2@127.0.0.1:99999",
        "redis://user:hunter2@127.0.0.1/database",
        "redis://user:hunter2@",
        "rediss://user:hunter2@127.0.0.1#hunter2",
        "redis://user:hunter2@127.0.0.1?protocol=hunter2",
    ];
    for url in urls {
        let error = refused(|b| b.redis(url));
        assert!(error.is_bad_l2_config(), "{url}: {error}");
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
        }
    }
    // A good one builds without a server, and is not shown either.
    let builder = Texts::builder("test:options").redis("redis://user:hunter2@127.0.0.1:1");
    assert!(!format!("{builder:?}").contains("hunter2"));
    let cache = builder.build().unwrap();
    assert!(!format!("{cache:?}").contains("hunter2"));
    let l2 = larder::RedisL2::open("redis://user:hunter2@127.0.0.1:1").unwrap();
    assert!(!format!("{l2:?}").contains("hunter2"));
}

/// Options for L2 make sense without a server, too.
#[test]
fn options_for_l2_do_no_harm_without_one() {
    let cache = Texts::builder("test:options")
        .l1_capacity(100_000)
        .l1_ttl(Duration::from_secs(60))
        .l2_ttl(Duration::from_secs(3600))
        .soft_ttl(Duration::from_secs(300))
        .build();
    assert!(cache.unwrap().health().is_ok());
}

#[test]
fn a_caller_may_wait_without_a_limit() {
    let patient = Texts::builder("test:options").stale_wait(Duration::MAX);
    assert!(patient.build().is_ok());
}
