//! The library `struct`, with the formats that the crate uses: `>`, and then unsigned numbers of one byte, `B`, or of up
//! to eight, such as `I4`, with the highest byte first.

use std::iter;

use mlua::{BString, Either, Lua, LuaString, MultiValue, Table, Value, Variadic};

use super::errors::Raised;

pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let pack = lua.create_function(pack)?;
    let unpack = lua.create_function(unpack)?;
    lua.create_table_from([("pack", pack), ("unpack", unpack)])
}

/// How many bytes the numbers in a format have; `None` for what is not there.
fn sizes(format: &[u8]) -> impl Iterator<Item = Option<usize>> {
    let mut rest = format.strip_prefix(b">").unwrap_or(b"?");
    iter::from_fn(move || {
        let (size, after) = match rest {
            [] => return None,
            [b'B', after @ ..] => (1, after),
            [b'I', digit @ b'1'..=b'8', after @ ..] => (usize::from(digit - b'0'), after),
            _ => return Some(None),
        };
        rest = after;
        Some(Some(size))
    })
}

fn not_here(lua: &Lua) -> Raised {
    Raised::located(lua, "the simulated struct does not have this format")
}

fn pack(lua: &Lua, (format, args): (BString, MultiValue)) -> mlua::Result<LuaString> {
    let (mut args, mut out) = (args.into_iter(), Vec::with_capacity(72));
    for (n, size) in sizes(&format).enumerate() {
        let size = size.ok_or_else(|| not_here(lua))?;
        // Redis puts a nil behind the arguments.
        let value = args.next().unwrap_or(Value::Nil);
        let got = type_of(&value);
        let number = lua.coerce_number(value)?;
        let number = number.ok_or_else(|| expected(lua, "pack", n + 2, "number", got))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "as in C"
        )]
        let number = if number < 0.0 {
            number as i64 as u64
        } else {
            number as u64
        };
        out.extend_from_slice(&number.to_be_bytes()[8 - size..]);
    }
    lua.create_string(out)
}

/// Answers the numbers, and the place behind them.
fn unpack(
    lua: &Lua,
    (format, data, at): (BString, Either<BString, Value>, Option<usize>),
) -> mlua::Result<Variadic<f64>> {
    let data = match data {
        Either::Left(data) => data,
        Either::Right(value) => {
            return Err(expected(lua, "unpack", 2, "string", type_of(&value)).into());
        }
    };
    let Some(mut at) = at.unwrap_or(1).checked_sub(1) else {
        return Err(argument(lua, "unpack", 3, "offset must be 1 or greater").into());
    };
    let mut numbers = Vec::with_capacity(10);
    for size in sizes(&format) {
        let size = size.ok_or_else(|| not_here(lua))?;
        let Some(bytes) = data.get(at..at + size) else {
            return Err(argument(lua, "unpack", 2, "data string too short").into());
        };
        let number = |sum, byte: &u8| sum << 8 | u64::from(*byte);
        numbers.push(rounded(bytes.iter().fold(0, number)));
        at += size;
    }
    numbers.push(rounded(at as u64 + 1));
    Ok(numbers.into())
}

/// Lua has only doubles: from 2^53 on a number is rounded.
#[allow(clippy::cast_precision_loss, reason = "as in Lua")]
fn rounded(number: u64) -> f64 {
    number as f64
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        value => value.type_name(),
    }
}

fn expected(lua: &Lua, name: &str, n: usize, expected: &str, got: &str) -> Raised {
    argument(lua, name, n, &format!("{expected} expected, got {got}"))
}

/// What is wrong with an argument of a function.
fn argument(lua: &Lua, name: &str, n: usize, text: &str) -> Raised {
    Raised::located(lua, &format!("bad argument #{n} to '{name}' ({text})"))
}
