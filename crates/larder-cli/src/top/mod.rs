//! `larder top`: caches, their fleets and the memory of Redis, again and again.

mod fleets;
mod view;

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use larder::RedisL2;
use larder::inspect::Namespace;
use ratatui::DefaultTerminal;
use tokio::time::{Instant, sleep, sleep_until};

use self::fleets::{Fleets, Watcher};
use crate::Outcome;
use crate::ended::ended;
use crate::server::{Missing, Server};
use crate::text;
use crate::text::Screen;

/// Of a screen that no terminal shows.
const COLUMNS: u16 = 80;
/// Between two looks. The server has other work, and a rate needs some time.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3600);
/// For how long one screen waits for the members at most.
const LONGEST_WATCH: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Top {
    /// The namespaces of caches, such as shop:price. Without any, those that a scan of Redis finds at the start.
    namespaces: Vec<String>,
    /// The time between two looks, such as 2s or 500ms.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    every: Duration,
    /// Prints one screen, when it is known which members are silent, and ends.
    #[arg(long)]
    once: bool,
    /// Prints JSON.
    #[arg(long, requires = "once")]
    json: bool,
    /// Without namespaces: looks for them among so many names of keys on each server, or about as many.
    #[arg(long, value_name = "NAMES", default_value_t = 1_000_000)]
    scan: usize,
}

impl Top {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        if !self.once && !io::stdout().is_terminal() {
            return Err("stdout is no terminal: give --once for one screen".into());
        }
        let l2 = server.l2()?;
        let (names, are_all) = self.names(&l2).await?;
        let watcher = Watcher::new(&l2, names);
        let mut fleets = Fleets::new(are_all);
        // Before the terminal is taken: what fails from the start is one line.
        fleets.add(watcher.look().await)?;
        if !self.once {
            return self.live(watcher, fleets).await;
        }
        let watched = Instant::now();
        let missing = loop {
            sleep(self.every).await;
            let looked = watcher.look().await;
            let mut errors = looked
                .iter()
                .filter_map(|(_, looked)| looked.as_ref().err());
            let missing = errors.find_map(|error| error.downcast_ref::<Missing>().cloned());
            fleets.add(looked)?;
            if fleets.are_judged() || watched.elapsed() >= LONGEST_WATCH {
                break missing;
            }
        };
        let mut screen = Screen::default();
        if self.json {
            screen.json(&view::as_json(&fleets));
        } else {
            let terminal = io::stdout().is_terminal().then(crossterm::terminal::size);
            let columns = terminal
                .and_then(Result::ok)
                .map_or(COLUMNS, |(columns, _)| columns);
            for line in view::lines(&fleets, columns.into(), None) {
                screen.line(line.text.trim_end());
            }
        }
        screen.print()?;
        missing.map_or(Ok(ExitCode::SUCCESS), |missing| Err(missing.into()))
    }

    /// Which namespaces to show, and whether these are all.
    async fn names(&self, l2: &RedisL2) -> Result<(Vec<String>, bool), Box<dyn std::error::Error>> {
        if !self.namespaces.is_empty() {
            return Ok((self.namespaces.clone(), true));
        }
        let found = Namespace::scan(l2, self.scan).await?;
        match (found.names.is_empty(), found.are_all) {
            (true, true) => Err(Missing::All.into()),
            (true, false) => Err("no cache was found: give its name, or a larger --scan".into()),
            (false, are_all) => Ok((found.names.into_iter().collect(), are_all)),
        }
    }

    async fn live(&self, watcher: Watcher, mut fleets: Fleets) -> Outcome {
        let mut ended = pin!(ended()?);
        let mut terminal = Screens::take()?;
        let mut events = EventStream::new();
        loop {
            let next = Instant::now() + self.every;
            let mut look = pin!(async {
                sleep_until(next).await;
                watcher.look().await
            });
            // A look may take seconds while Redis does not answer; keys are heeded meanwhile.
            let looked = loop {
                terminal.draw(&fleets, self.every)?;
                tokio::select! {
                    looked = &mut look => break looked,
                    event = events.next() => {
                        // Without a terminal there are no more events.
                        if event.transpose()?.as_ref().is_none_or(is_end) {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    () = &mut ended => return Ok(ExitCode::SUCCESS),
                }
            };
            // What fails is shown until it works again, as Redis may be away for a moment.
            _ = fleets.add(looked);
        }
    }
}

/// The terminal, until it is dropped: then it is as it was before. ratatui gives it back when the program panics, too.
struct Screens(DefaultTerminal);

impl Screens {
    fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| {
            // It may have been taken in part.
            _ = ratatui::try_restore();
        })
    }

    fn draw(&mut self, fleets: &Fleets, every: Duration) -> io::Result<()> {
        self.0.draw(|frame| {
            let area = frame.area();
            frame.render_widget(view::page(fleets, every, area), area);
        })?;
        Ok(())
    }
}

impl Drop for Screens {
    fn drop(&mut self) {
        // The terminal itself may be gone.
        _ = ratatui::try_restore();
    }
}

/// Whether a key ends the command. In raw mode ctrl-c is a key, and no signal.
fn is_end(event: &Event) -> bool {
    let Event::Key(KeyEvent {
        code,
        modifiers,
        kind,
        ..
    }) = event
    else {
        return false;
    };
    let is_ctrl_c = *code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    *kind != KeyEventKind::Release && (is_ctrl_c || matches!(code, KeyCode::Char('q' | 'Q')))
}

/// Reads a time such as 2s or 500ms.
fn time(text: &str) -> Result<Duration, &'static str> {
    let mistakes = [
        "give a time such as 2s or 500ms",
        "give a time from 100ms to 3600s",
    ];
    text::time(text, SHORTEST..=LONGEST, mistakes)
}
