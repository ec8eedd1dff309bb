//! What functions raise, as scripts see it, and where that was.

use std::fmt;

use mlua::{Error, Lua, Value};

/// An error that a function in Rust raises. A function of Lua that gets it as an error of mlua has it untangled first.
#[derive(Clone, Debug)]
pub(super) enum Raised {
    /// A text, as Lua's own functions raise it.
    Text(String),
    /// A table with a text, as the functions of `redis` raise it.
    Table(String),
}

impl Raised {
    /// A text with the place from where the function is called.
    pub(super) fn located(lua: &Lua, text: &str) -> Self {
        let place = lua.inspect_stack(1, |debug| {
            let line = debug.current_line()?;
            Some(format!("{}:{line}: ", debug.source().short_src?))
        });
        Self::Text(place.flatten().unwrap_or_default() + text)
    }

    /// What a function has raised, out of what mlua has made of it.
    pub(super) fn of(error: &Error) -> Self {
        let raised = error.downcast_ref().cloned();
        raised.unwrap_or_else(|| Self::Text(error.to_string()))
    }

    pub(super) fn into_lua(self, lua: &Lua) -> mlua::Result<Value> {
        match self {
            Self::Text(text) => Ok(Value::String(lua.create_string(text)?)),
            Self::Table(text) => {
                let table = lua.create_table_from([("err", text)])?;
                Ok(Value::Table(table))
            }
        }
    }
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Text(text) | Self::Table(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for Raised {}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

/// Where an error was raised: the source and the line of the function, or of its caller if it is not one of Lua.
/// Called by the handler of errors.
pub(super) fn place(lua: &Lua) -> (Option<String>, Option<i64>) {
    let at = |level| {
        lua.inspect_stack(level, |debug| {
            let (source, line) = (debug.source(), debug.current_line());
            let line = line.and_then(|line| i64::try_from(line).ok());
            let text = source.source.map(std::borrow::Cow::into_owned);
            (source.what == "C", text, line.unwrap_or(-1))
        })
    };
    // This function, the handler, and what has failed.
    let place = match at(2) {
        Some((true, ..)) => at(3),
        place => place,
    };
    place.map_or((None, None), |(_, source, line)| (source, Some(line)))
}
