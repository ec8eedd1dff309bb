//! The first line of a script, which may say what it is allowed to: `#!lua flags=allow-oom`.

use crate::reply::Reply;

/// What a script is allowed to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Flags {
    /// Without such a line, a script is treated as by a Redis before 7.0.
    pub(crate) has_shebang: bool,
    pub(crate) allow_oom: bool,
    /// It may use keys of several slots, if its node has them.
    pub(crate) crosses_slots: bool,
}

/// The flags, and the rest of the script: with the end of the line, so that lines keep their numbers.
pub(super) fn read(text: &[u8]) -> Result<(Flags, &[u8]), Reply> {
    let mut flags = Flags::default();
    if !text.starts_with(b"#!") {
        return Ok((flags, text));
    }
    let end = text.iter().position(|byte| *byte == b'\n');
    let (line, body) = text.split_at(end.ok_or_else(|| error("Invalid script shebang"))?);
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(error(&format!(
            "Unexpected engine in script shebang: {engine}"
        )));
    }
    flags.has_shebang = true;
    for word in words {
        let Some(list) = word.strip_prefix("flags=") else {
            return Err(error(&format!("Unknown lua shebang option: {word}")));
        };
        for flag in list.split(',').filter(|_| !list.is_empty()) {
            match flag {
                "allow-oom" => flags.allow_oom = true,
                "allow-cross-slot-keys" => flags.crosses_slots = true,
                _ => return Err(error(&format!("Unexpected flag in script shebang: {flag}"))),
            }
        }
    }
    Ok((flags, body))
}

fn error(text: &str) -> Reply {
    Reply::error(format!("ERR {text}"))
}
