//! Values of Lua: what a command is given and answers, and what a script answers.

use mlua::{BString, Either, Function, IntoLua, Lua, LuaString, MultiValue, Table, Value};

use super::errors::Raised;
use crate::reply::Reply;

const NO_TEXT: &str = "ERR Lua redis lib command arguments must be strings or integers";

/// The texts of a list that a script is given. What is UTF-8 gets there faster.
pub(super) fn texts(texts: &[Vec<u8>]) -> impl Iterator<Item = impl IntoLua> {
    texts.iter().map(|text| match str::from_utf8(text) {
        Ok(text) => Either::Left(text),
        Err(_) => Either::Right(LuaString::wrap(text)),
    })
}

/// The parts of a command that a script calls. Its name is a text, which gets here faster than values do.
pub(super) fn command(
    format: &Function,
    (name, args): (Either<BString, Value>, MultiValue),
) -> mlua::Result<Vec<Vec<u8>>> {
    let fail = |text: &str| Err(Raised::Table(text.to_owned()).into());
    let mut parts = Vec::with_capacity(1 + args.len());
    match name {
        Either::Left(name) => parts.push(name.into()),
        Either::Right(Value::Nil) => {
            return fail("ERR Please specify at least one argument for this redis lib call");
        }
        Either::Right(_) => return fail(NO_TEXT),
    }
    for arg in args {
        parts.push(match arg {
            Value::String(text) => text.as_bytes().to_vec(),
            // From there on they have exponents.
            Value::Integer(n) if n.unsigned_abs() < 10_u64.pow(15) => n.to_string().into_bytes(),
            Value::Integer(_) | Value::Number(_) => {
                let text: BString = format.call(("%.17g", arg))?;
                text.into()
            }
            _ => return fail(NO_TEXT),
        });
    }
    Ok(parts)
}

/// What a command has answered, for a script.
pub(super) fn into_lua(lua: &Lua, reply: Reply) -> mlua::Result<Value> {
    let table =
        |field: &str, text: String| Ok(Value::Table(lua.create_table_from([(field, text)])?));
    match reply {
        Reply::Status(text) => table("ok", text),
        Reply::Error(text) => table("err", text),
        Reply::Integer(n) => Ok(Value::Integer(n)),
        Reply::Bulk(bytes) => Ok(Value::String(lua.create_string(bytes)?)),
        Reply::Nil => Ok(Value::Boolean(false)),
        Reply::Array(items) | Reply::Push(items) => list(lua, items),
        Reply::Map(pairs) => list(lua, pairs.into_iter().flat_map(<[Reply; 2]>::from)),
    }
}

fn list(lua: &Lua, items: impl IntoIterator<Item = Reply>) -> mlua::Result<Value> {
    let items = items.into_iter().map(Answer);
    Ok(Value::Table(lua.create_sequence_from(items)?))
}

struct Answer(Reply);

impl IntoLua for Answer {
    fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        into_lua(lua, self.0)
    }
}

/// The answer with a value that a script has returned.
pub(super) fn reply(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        Value::Boolean(true) => Reply::Integer(1),
        Value::Integer(n) => Reply::Integer(*n),
        #[allow(clippy::cast_possible_truncation, reason = "the fraction is cut off")]
        Value::Number(n) => Reply::Integer(*n as i64),
        Value::Table(table) if table.raw_len() == 0 => return reply_of_fields(table),
        Value::Table(table) => {
            let mut items = Vec::with_capacity(table.raw_len());
            // The first nil ends it.
            while let value = table.raw_get::<Value>(items.len() + 1)?
                && !value.is_nil()
            {
                items.push(reply(&value)?);
            }
            Reply::Array(items)
        }
        _ => Reply::Nil,
    })
}

fn reply_of_fields(table: &Table) -> mlua::Result<Reply> {
    let get = |field| table.raw_get::<Option<LuaString>>(field);
    if let Some(text) = get("err")? {
        return Ok(Reply::Error(on_one_line(&text)));
    }
    if let Some(text) = get("ok")? {
        return Ok(Reply::Status(on_one_line(&text)));
    }
    // Redis has answers for some more, and an empty list for any other.
    assert!(table.is_empty(), "no script answers {table:?}");
    Ok(Reply::Array(Vec::new()))
}

/// The answer with an error that has ended a script.
pub(super) fn error(error: &Table, sha: &str) -> mlua::Result<Reply> {
    let mut text = on_one_line(&error.raw_get("err")?);
    let (source, line): (Option<LuaString>, Option<i64>) =
        (error.raw_get("source")?, error.raw_get("line")?);
    if let (Some(source), Some(line)) = (source, line) {
        let source = source.to_string_lossy();
        text = format!("{text} script: {sha}, on {source}:{line}.");
    }
    Ok(Reply::Error(text))
}

/// A line is all that a status or an error has.
fn on_one_line(text: &LuaString) -> String {
    text.to_string_lossy().replace(['\r', '\n'], " ")
}
