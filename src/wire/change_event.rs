//! A change as other programs are told of it, in JSON.

use serde::Serialize;

use super::message::{Kind, Message};

#[derive(Serialize)]
struct ChangeEvent<'a> {
    namespace: &'a str,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a str>,
    epoch: u64,
    version: u64,
}

/// The event of a message; `None` for one that says nothing, or of a kind that this release does not know.
pub(crate) fn write(namespace: &str, message: &Message) -> Option<Vec<u8>> {
    let texts = || Some(message.keys.iter().map(|key| &**key).collect());
    let mut event = ChangeEvent {
        namespace,
        change: "invalidate",
        keys: None,
        tags: None,
        prefix: None,
        epoch: message.epoch,
        version: message.ver,
    };
    match message.kind {
        // A mark in the log.
        Kind::Invalidate if message.keys.is_empty() => return None,
        Kind::Invalidate | Kind::InvalidateAwaited => event.keys = texts(),
        Kind::Insert => (event.change, event.keys) = ("insert", texts()),
        Kind::Clear => event.change = "clear",
        Kind::Tags => (event.change, event.tags) = ("tags", texts()),
        Kind::Prefix => {
            let prefix = message.keys.first().map(|prefix| &**prefix);
            (event.change, event.prefix) = ("prefix", prefix);
        }
        Kind::PrefixBegun | Kind::Unknown(_) => return None,
    }
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
                kind,
                origin: 13,
                keys: keys.iter().map(|key| (*key).into()).collect(),
            };
            let event = write("ns", &message).and_then(|json| String::from_utf8(json).ok());
            let said = format!(r#"{{"namespace":"ns","change":{said},"epoch":3,"version":8}}"#);
            assert_eq!(event, Some(said));
        }
    }
}
