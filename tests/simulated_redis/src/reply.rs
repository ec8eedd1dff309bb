//! An answer of the server, and its bytes; a request is a list of texts.

use std::iter;

/// An answer, before it is written in the protocol of a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A status, such as `OK`.
    Status(String),
    /// An error: its code and its text, without the `-`.
    Error(String),
    /// A whole number.
    Integer(i64),
    /// A text or other bytes.
    Bulk(Vec<u8>),
    /// No value.
    Nil,
    /// A list.
    Array(Vec<Reply>),
    /// Pairs; over RESP2 a list.
    Map(Vec<(Reply, Reply)>),
    /// A message; over RESP2 a list.
    Push(Vec<Reply>),
}

/// The version of the protocol that a connection uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

impl Reply {
    /// Reads an answer from its bytes, and says how many these are; `None` if some are missing.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        read(bytes)
    }

    /// Its bytes in RESP3.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(Protocol::Resp3, &mut bytes);
        bytes
    }

    pub(crate) fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// A length, or how many of something there are.
    pub(crate) fn count(many: usize) -> Self {
        Self::Integer(i64::try_from(many).unwrap_or(i64::MAX))
    }

    /// Adds it to bytes that are sent.
    pub(crate) fn write(&self, protocol: Protocol, to: &mut Vec<u8>) {
        let is_3 = protocol == Protocol::Resp3;
        match self {
            Self::Status(text) => line(to, b'+', text),
            Self::Error(text) => line(to, b'-', text),
            Self::Integer(number) => line(to, b':', &number.to_string()),
            Self::Bulk(bytes) => {
                line(to, b'$', &bytes.len().to_string());
                to.extend_from_slice(bytes);
                to.extend_from_slice(b"\r\n");
            }
            Self::Nil if is_3 => line(to, b'_', ""),
            Self::Nil => line(to, b'$', "-1"),
            Self::Array(items) => list(to, b'*', items.len(), items, protocol),
            Self::Push(items) => {
                let kind = if is_3 { b'>' } else { b'*' };
                list(to, kind, items.len(), items, protocol);
            }
            Self::Map(pairs) => {
                let each = pairs
                    .iter()
                    .flat_map(|(key, value)| iter::once(key).chain([value]));
                let (kind, many) = if is_3 {
                    (b'%', pairs.len())
                } else {
                    (b'*', 2 * pairs.len())
                };
                list(to, kind, many, each, protocol);
            }
        }
    }
}

fn line(to: &mut Vec<u8>, kind: u8, text: &str) {
    to.push(kind);
    to.extend_from_slice(text.as_bytes());
    to.extend_from_slice(b"\r\n");
}

fn list<'a>(
    to: &mut Vec<u8>,
    kind: u8,
    many: usize,
    items: impl IntoIterator<Item = &'a Reply>,
    protocol: Protocol,
) {
    line(to, kind, &many.to_string());
    for item in items {
        item.write(protocol, to);
    }
}

/// Reads what begins with the first byte: an answer, or a request, in either version of the protocol. Returns its
/// length, too; `None` if the end is missing.
pub(crate) fn read(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let text = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    let end = end + 2;
    let number = || text.parse::<i64>().expect("a number");
    let reply = match bytes[0] {
        b'+' => Reply::Status(text),
        b'-' => Reply::Error(text),
        b':' => Reply::Integer(number()),
        b'_' => Reply::Nil,
        b'$' | b'=' | b'*' | b'%' | b'>' | b'~' if number() < 0 => Reply::Nil,
        b'$' | b'=' => {
            let to = end + usize::try_from(number()).expect("a length");
            let text = bytes.get(end..to + 2)?;
            return Some((Reply::text(&text[..to - end]), to + 2));
        }
        kind @ (b'*' | b'%' | b'>' | b'~') => {
            let many = number() * if kind == b'%' { 2 } else { 1 };
            let (mut items, mut at) = (Vec::new(), end);
            for _ in 0..many {
                let (item, length) = read(&bytes[at..])?;
                items.push(item);
                at += length;
            }
            let reply = match kind {
                b'%' => Reply::Map(pairs(items)),
                b'>' => Reply::Push(items),
                _ => Reply::Array(items),
            };
            return Some((reply, at));
        }
        other => panic!("what is {:?}?", char::from(other)),
    };
    Some((reply, end))
}

fn pairs(items: Vec<Reply>) -> Vec<(Reply, Reply)> {
    let mut items = items.into_iter();
    iter::from_fn(|| items.next().zip(items.next())).collect()
}

/// The parts of a request.
pub(crate) fn parts(request: Reply) -> Option<Vec<Vec<u8>>> {
    let Reply::Array(parts) = request else {
        return None;
    };
    let bytes = |part| match part {
        Reply::Bulk(bytes) => Some(bytes),
        _ => None,
    };
    parts.into_iter().map(bytes).collect()
}
