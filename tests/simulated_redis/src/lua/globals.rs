//! What scripts see: tables that they cannot change, and no variable that is not there.

use std::cell::Cell;
use std::collections::HashMap;

use mlua::{
    Function, HookTriggers, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value, VmState,
};

use super::errors::{Raised, place};
use super::{Interpreter, sha1hex, structs};

/// The functions of Lua that scripts have, besides `pcall`.
const FUNCTIONS: [&str; 10] = [
    "assert", "error", "ipairs", "next", "pairs", "select", "tonumber", "tostring", "type",
    "unpack",
];

/// What must be Lua, as errors go through it: a Rust function that fails raises an object of mlua, of which scripts
/// must not see anything. Answers `pcall`, and the function that runs a script.
const PRELUDE: &str = r"
local untangle, place = ...
local pcall, xpcall, type, tostring = pcall, xpcall, type, tostring

-- As in Redis, a script gets the text of an error and not its table.
local function caught(ok, ...)
  if ok then
    return ok, ...
  end
  local e = untangle((...))
  return false, type(e) == 'table' and e.err or e
end

local function handler(e)
  e = untangle(e)
  if type(e) ~= 'table' then
    e = {err = 'ERR ' .. tostring(e)}
  end
  e.source, e.line = place()
  return e
end

return function(...)
  return caught(pcall(...))
end, function(script)
  return xpcall(script, handler)
end
";

const MANY_INSTRUCTIONS: u32 = 1_000_000;
/// A script that has run so many times as many is taken to be endless.
const MOST: u32 = 20;

thread_local! {
    static INSTRUCTIONS: Cell<u32> = const { Cell::new(0) };
}

/// A script begins.
pub(super) fn begin() {
    INSTRUCTIONS.set(0);
}

fn go_on() -> mlua::Result<VmState> {
    INSTRUCTIONS.set(INSTRUCTIONS.get() + 1);
    if INSTRUCTIONS.get() > MOST {
        return Err(Raised::Table("ERR the script does not end".to_owned()).into());
    }
    Ok(VmState::Continue)
}

impl Interpreter {
    pub(super) fn new() -> Self {
        // Only without memory this fails.
        Self::make().unwrap_or_else(|error| panic!("no Lua: {error}"))
    }

    fn make() -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        let each = HookTriggers::new().every_nth_instruction(MANY_INSTRUCTIONS);
        lua.set_hook(each, |_, _| go_on())?;
        let own = lua.globals();
        let globals = lua.create_table()?;
        for name in FUNCTIONS {
            globals.raw_set(name, own.raw_get::<Function>(name)?)?;
        }
        let untangle = lua.create_function(|lua, value| match value {
            Value::Error(error) => Raised::of(&error).into_lua(lua),
            value => Ok(value),
        })?;
        let place = lua.create_function(|lua, ()| Ok(place(lua)))?;
        let prelude = lua.load(PRELUDE).set_name("=[C]");
        let (pcall, runner): (Function, _) = prelude.call((untangle, place))?;
        globals.raw_set("pcall", pcall)?;

        let redis = redis(&lua)?;
        globals.raw_set("redis", front(&lua, &redis)?)?;
        globals.raw_set("struct", front(&lua, &structs::table(&lua)?)?)?;
        let [math, string, table]: [Table; 3] = [
            own.raw_get("math")?,
            own.raw_get("string")?,
            own.raw_get("table")?,
        ];
        // Those of Redis have numbers of their own.
        math.raw_remove("random")?;
        math.raw_remove("randomseed")?;
        for (name, library) in [("math", &math), ("string", &string), ("table", &table)] {
            globals.raw_set(name, front(&lua, library)?)?;
        }
        let meta = lua.create_table_from([("__index", lua.create_function(missing)?)])?;
        globals.set_metatable(Some(meta))?;
        lua.set_globals(front(&lua, &globals)?)?;
        Ok(Self {
            compiled: HashMap::new().into(),
            runner,
            format: string.raw_get("format")?,
            globals,
            redis,
            lua,
        })
    }
}

/// An empty table in front of another one, which can be read through it and not be changed.
fn front(lua: &Lua, table: &Table) -> mlua::Result<Table> {
    let refuse = |lua: &Lua, _: MultiValue| -> mlua::Result<()> {
        Err(Raised::located(lua, "Attempt to modify a readonly table").into())
    };
    let meta = lua.create_table()?;
    meta.raw_set("__index", table)?;
    meta.raw_set("__newindex", lua.create_function(refuse)?)?;
    let front = lua.create_table()?;
    front.set_metatable(Some(meta))?;
    Ok(front)
}

/// Called for a global that there is not.
fn missing(lua: &Lua, (_, name): (Value, LuaString)) -> mlua::Result<()> {
    let text = format!(
        "Script attempted to access nonexistent global variable '{}'",
        name.display()
    );
    Err(Raised::located(lua, &text).into())
}

/// The table `redis`, but for what runs commands.
fn redis(lua: &Lua) -> mlua::Result<Table> {
    let sha1hex = lua.create_function(|_, text: LuaString| Ok(sha1hex(&text.as_bytes())))?;
    let status_reply =
        lua.create_function(|lua, text: LuaString| lua.create_table_from([("ok", text)]))?;
    lua.create_table_from([("sha1hex", sha1hex), ("status_reply", status_reply)])
}
