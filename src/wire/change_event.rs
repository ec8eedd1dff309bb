//! A change as other programs are told of it, in JSON.

use serde::Serialize;

use super::message::{Kind, Message};

#[derive(Serialize)]
struct ChangeEvent<'a> {
    namespace: &'a str,
    #[serde(flatten)]
    change: Change<'a>,
    epoch: u64,
    version: u64,
}

#[derive(Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
enum Change<'a> {
    Invalidate { keys: Vec<&'a str> },
    Insert { keys: Vec<&'a str> },
    Clear,
    Tags { tags: Vec<&'a str> },
    Prefix { prefix: &'a str },
}

/// The event of a message; `None` for one of a kind that this release does not know.
pub(crate) fn to_json(namespace: &str, message: &Message) -> Option<Vec<u8>> {
    let keys: Vec<&str> = message.keys.iter().map(|key| &**key).collect();
    let change = match message.kind {
        Kind::Invalidate | Kind::InvalidateAwaited => Change::Invalidate { keys },
        Kind::Insert => Change::Insert { keys },
        Kind::Clear => Change::Clear,
        Kind::Tags => Change::Tags { tags: keys },
        Kind::Prefix => keys.first().map(|prefix| Change::Prefix { prefix })?,
        Kind::Unknown(_) => return None,
    };
    let event = ChangeEvent {
        namespace,
        change,
        epoch: message.epoch,
        version: message.ver,
    };
    // It does not fail: all keys of the object are texts.
    serde_json::to_vec(&event).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other programs read it: this test fails when it drifts.
    #[test]
    fn the_events_are_these() {
        for (kind, keys, said) in [
            (
                Kind::Insert,
                &["a", "b"][..],
                r#""insert","keys":["a","b"]"#,
            ),
            (Kind::Invalidate, &["\"ü"], r#""invalidate","keys":["\"ü"]"#),
            (
                Kind::InvalidateAwaited,
                &["a"],
                r#""invalidate","keys":["a"]"#,
            ),
            (Kind::Tags, &["t"], r#""tags","tags":["t"]"#),
            (Kind::Prefix, &["eu:"], r#""prefix","prefix":"eu:""#),
            (Kind::Clear, &[], r#""clear""#),
        ] {
            let message = Message {
                epoch: 3,
                seq: 5,
                ver: 8,
                nonce: 21,
                previous_nonce: 34,
                kind,
                origin: 13,
                keys: keys.iter().map(|key| (*key).into()).collect(),
            };
            let event = to_json("ns", &message).and_then(|json| String::from_utf8(json).ok());
            let said = format!(r#"{{"namespace":"ns","change":{said},"epoch":3,"version":8}}"#);
            assert_eq!(event, Some(said));
        }
    }
}
