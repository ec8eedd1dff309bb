//! What the log says of messages of other programs: one line for a cause, and nothing of what they say.

use larder::{Cache, MemoryL2};

use crate::support::eventually::eventually;
use crate::{SECRET, Texts, warnings};

#[test]
fn parsers_that_panic_and_too_many_messages_are_one_line_each() {
    let logged = warnings(async {
        let l2 = MemoryL2::new();
        let texts: Texts = Cache::builder("test:logs")
            .l2(l2.clone())
            .listen_to("changes", |payload| {
                assert!(payload.is_empty(), "{SECRET}");
                Vec::new()
            })
            .build()
            .unwrap();
        texts.ready().await;
        for _ in 0..3 {
            l2.publish("changes", SECRET.as_bytes());
        }
        eventually("all are parsed", async || texts.stats().parser_panics == 3).await;
        // The task that parses has no turn meanwhile.
        for _ in 0..3 {
            texts.insert("k", "v".to_owned()).await.unwrap();
            for _ in 0..5_000 {
                l2.publish("changes", SECRET.as_bytes());
            }
            eventually("it is cleared", async || texts.get("k").await.is_none()).await;
        }
        assert_eq!(texts.stats().parser_panics, 3);
    });
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert!(logged[0].contains("the parser of listen_to panicked"));
    assert!(logged[1].contains("publish faster"));
}
