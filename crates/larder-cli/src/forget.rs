//! `larder forget`: what is left of a cache that no instance uses any more.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use clap::Args;
use larder::inspect::{ForgetResult, Namespace};

use crate::Outcome;
use crate::change::Target;
use crate::server::{Server, unknown};
use crate::text::Screen;

#[derive(Args)]
pub(crate) struct Forget {
    #[command(flatten)]
    target: Target,
    /// Does it also while instances run. They begin anew, with nothing in either level, at their next heartbeats, and
    /// may return invalidated values until then.
    #[arg(long)]
    even_if_used: bool,
}

impl Forget {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let name = self.target.namespace();
        let namespace = Namespace::find(&server.l2()?, name).await?;
        let remains = namespace.remains().await?;
        // It may have lost the clock by which other commands know it.
        if remains.keys == 0 {
            return Err(unknown(name));
        }
        let mut screen = Screen::default();
        if !self.target.is_confirmed() {
            let keys = remains.keys;
            screen.line(format_args!("would remove keys of its own: {keys}"));
            if remains.members > 0 {
                let members = remains.members;
                screen.line(format_args!("unless one of these runs: {members}"));
            }
            if remains.has_writes {
                screen.line("but writes have not reached their source");
            }
            return self.target.nothing_changed(&screen);
        }
        match namespace.forget(self.even_if_used).await? {
            ForgetResult::Removed(keys) => {
                screen.line(format_args!("removed keys of its own: {keys}"));
            }
            ForgetResult::HasWrites => return Err(Refused::HasWrites.into()),
            _ => return Err(Refused::IsUsed.into()),
        }
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Why it was not done.
#[derive(Debug)]
enum Refused {
    IsUsed,
    HasWrites,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IsUsed => {
                "an instance runs, or may; stop it, or give --even-if-used, and run it again"
            }
            Self::HasWrites => {
                "writes wait for their source, or are dead letters: see larder dead-letters list"
            }
        })
    }
}

impl Error for Refused {}
