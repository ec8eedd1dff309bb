//! `larder dead-letters`: writes of write-behind that did not reach their source.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use larder::inspect::{Namespace, StoredWrites};
use larder::write_behind;
use serde_json::{Value, json};

use crate::Outcome;
use crate::change::Target;
use crate::server::{Server, unknown};
use crate::text::{Screen, age, millis};

#[derive(Subcommand)]
pub(crate) enum DeadLetters {
    /// Shows how many writes wait, and the dead letters: key, age and reason.
    List(List),
    /// Puts all dead letters back into the stream, so that the service tries them again. Safe if its `store` compares
    /// versions: see the README.
    Replay(Replay),
}

#[derive(Args)]
pub(crate) struct List {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// Shows so many dead letters.
    #[arg(long, default_value_t = 100)]
    most: usize,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    target: Target,
}

impl DeadLetters {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        match self {
            Self::List(list) => list.run(server).await,
            Self::Replay(replay) => replay.run(server).await,
        }
    }
}

impl List {
    async fn run(&self, server: &Server) -> Outcome {
        let namespace = Namespace::find(&server.l2()?, &self.namespace).await?;
        if !namespace.is_known() {
            return Err(unknown(&self.namespace));
        }
        let writes = namespace.writes(self.most).await?;
        let mut screen = Screen::default();
        if self.json {
            screen.json(&self.as_json(&writes));
        } else {
            self.show(&writes, &mut screen);
        }
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, writes: &StoredWrites, screen: &mut Screen) {
        screen.line(&self.namespace);
        screen.row("pending", writes.pending);
        if writes.pending > 0 {
            screen.row("lag", age(writes.lag));
        }
        screen.row("worker", if writes.has_worker { "yes" } else { "no" });
        screen.row("dead", writes.dead_letters);
        for letter in &writes.letters {
            screen.row("letter", &letter.key);
            screen.row("  written", format_args!("{} ago", age(letter.written)));
            screen.row("  dead", format_args!("{} ago", age(letter.buried)));
            screen.row("  size", format_args!("{} bytes", letter.size));
            screen.sentence(&letter.reason);
        }
        let more = writes
            .dead_letters
            .saturating_sub(writes.letters.len() as u64);
        if more > 0 {
            screen.row("not shown", more);
        }
    }

    fn as_json(&self, writes: &StoredWrites) -> Value {
        let letters = writes.letters.iter().map(|letter| {
            json!({
                "key": letter.key,
                "reason": letter.reason,
                "written_ms": millis(letter.written),
                "dead_ms": millis(letter.buried),
                "size": letter.size,
            })
        });
        json!({
            "namespace": self.namespace,
            "pending": writes.pending,
            "lag_ms": millis(writes.lag),
            "has_worker": writes.has_worker,
            "dead_letters": writes.dead_letters,
            "letters": letters.collect::<Vec<_>>(),
        })
    }
}

impl Replay {
    async fn run(&self, server: &Server) -> Outcome {
        let l2 = server.l2()?;
        let namespace = self.target.find(&l2).await?;
        let mut screen = Screen::default();
        if !self.target.is_confirmed() {
            let many = namespace.writes(0).await?.dead_letters;
            screen.line(format_args!("would replay dead letters: {many}"));
            return self.target.nothing_changed(&screen);
        }
        // No worker: one without the types of the service could read no write.
        let replay = write_behind::replay_dead_letters::<String, ()>;
        let replayed = self.target.with_instance(l2, &namespace, replay).await??;
        screen.line(format_args!("wait again: {replayed}"));
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }
}
