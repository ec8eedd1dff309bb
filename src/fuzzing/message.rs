//! Messages: what a channel carries. And the entries of the list of members.

use super::input::Input;
use crate::key::Key;
use crate::l2::redis::members;
use crate::wire::message::{Kind, Message, kind, lease_ended, parse, payload};

/// Where the sender's part begins.
const PAYLOAD: usize = 43;
/// The shortest message: of an unknown kind, it has no keys.
const SHORTEST: usize = 52;

/// Bytes as they are, and a message that is made up, written and read.
pub fn message(bytes: &[u8]) {
    if let Some(message) = parse(bytes) {
        let written = written(&message);
        if matches!(message.kind, Kind::Unknown(_)) {
            assert!(message.keys.is_empty());
            assert_eq!(written.get(..SHORTEST), bytes.get(..SHORTEST));
        } else {
            assert_eq!(written, bytes);
        }
        assert_eq!(lease_ended(bytes), None, "it is no notice");
        assert_eq!(bytes.get(PAYLOAD..).and_then(kind), Some(message.kind));
    }
    if let Some(key) = lease_ended(bytes) {
        assert_eq!([b"LE\x01", key.as_bytes()].concat(), bytes);
    }
    made_up(&mut Input::new(bytes));
    member(bytes);
}

fn written(message: &Message) -> Vec<u8> {
    let keys: Vec<&str> = message.keys.iter().map(|key| &**key).collect();
    let mut bytes = b"LM\x02".to_vec();
    let Message {
        epoch,
        seq,
        ver,
        nonce,
        previous_nonce,
        ..
    } = *message;
    for number in [epoch, seq, ver, nonce, previous_nonce] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend(payload(message.kind, message.origin, &keys));
    bytes
}

/// What is written is read; neither cut nor longer.
fn made_up(input: &mut Input<'_>) {
    let cut = usize::from(input.u8());
    let kind = match input.u8() % 6 {
        0 => Kind::Invalidate,
        1 => Kind::Insert,
        2 => Kind::Clear,
        3 => Kind::InvalidateAwaited,
        4 => Kind::Prefix,
        _ => Kind::Tags,
    };
    let message = Message {
        epoch: input.u64(),
        seq: (input.u64() % (1 << 53)) + 1,
        ver: input.u64(),
        nonce: input.u64(),
        previous_nonce: input.u64(),
        kind,
        origin: input.u64(),
        keys: input.list(|input| Key::from(&*input.text())),
    };
    let bytes = written(&message);
    // One of a prefix has one.
    let is_message = kind != Kind::Prefix || message.keys.len() == 1;
    assert_eq!(parse(&bytes).as_ref(), is_message.then_some(&message));
    assert_eq!(
        parse(bytes.get(..cut % bytes.len()).unwrap_or_default()),
        None
    );
    assert_eq!(parse(&[&*bytes, &[0]].concat()), None);
}

/// The entry of a member is read to what it says, whatever follows.
fn member(bytes: &[u8]) {
    let Ok(entry) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(member) = members::parse(7, entry) {
        let again = members::parse(7, &members::entry(&member));
        assert_eq!(again, Some(member));
    }
}
