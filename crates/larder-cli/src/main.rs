//! The command `larder`: shows what a cache has in Redis, and changes it with the guarantees of the crate.

mod bypass;
mod change;
mod check;
mod dead_letters;
mod ended;
mod forget;
mod hyphens;
mod inspect;
mod server;
mod tail;
mod text;
mod top;

use std::env;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::server::Server;

/// Shows what a larder cache has in Redis, and changes it.
#[derive(Parser)]
#[command(name = "larder", version, max_term_width = 80)]
struct Arguments {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what Redis has for a key, and why no instance uses it.
    Inspect(inspect::Inspect),
    /// Looks for what is wrong, and says what to do. The exit code is 1 if something is, 3 if it could not look.
    Check(check::Check),
    /// Prints changes as they happen, or the last ones that the log has: version, time, instance, change, keys.
    Tail(tail::Tail),
    /// Shows caches, their fleets and the memory of Redis, again and again, until q is pressed.
    Top(top::Top),
    /// Lists the writes of write-behind that did not reach their source, and has them tried again.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    #[command(flatten)]
    Change(change::Change),
    /// Switches the cache off in all instances for the keys that begin with a text, for a while.
    Bypass(bypass::Bypass),
    /// Removes what a cache leaves in Redis when no instance uses it any more.
    ///
    /// That is what has no TTL: the clock, the log, the list of members and the counters of each partition. Values end by
    /// their TTLs, and none is used without its clock. It refuses while an instance runs, and watches the members that
    /// are listed for a while to see that; and while writes of write-behind have not reached
    /// their source.
    Forget(forget::Forget),
}

/// Of a command: the exit code if it did its work.
type Outcome = Result<ExitCode, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = hyphens::last(&Arguments::command(), env::args_os());
    let Arguments { server, command } = Arguments::parse_from(arguments);
    let outcome = match command {
        Command::Inspect(inspect) => inspect.run(&server).await,
        Command::Check(check) => check.run(&server).await,
        Command::Tail(tail) => tail.run(&server).await,
        Command::Top(top) => top.run(&server).await,
        Command::DeadLetters(letters) => letters.run(&server).await,
        Command::Change(change) => change.run(&server).await,
        Command::Bypass(bypass) => bypass.run(&server).await,
        Command::Forget(forget) => forget.run(&server).await,
    };
    let error = match outcome {
        Ok(code) => return code,
        Err(error) => error,
    };
    let io = error.downcast_ref::<io::Error>();
    if io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        // As with `larder tail … | head`.
        return ExitCode::SUCCESS;
    }
    server.report(&*error).await;
    ExitCode::FAILURE
}
