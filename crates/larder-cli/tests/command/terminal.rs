//! A terminal of the test's own, in which the command runs.

use std::num::NonZeroU16;

use pty_process::{Command, Pty, Size};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::time::timeout;
use vt100::{Parser, Screen};

use super::program::LIMIT;

const ROWS: u16 = 30;

/// A terminal and what it shows. The command is killed when this is dropped.
pub(super) struct Terminal {
    pty: Pty,
    child: Child,
    parser: Parser,
}

impl Terminal {
    /// Runs the command in a terminal of so many columns, which then shows its exit code and its settings.
    pub(super) fn start(columns: u16, url: &str, arguments: &[&str]) -> Self {
        // `stty` says whether the command has left the terminal as it was.
        let script = r#""$0" "$@"; echo "exit code $?"; stty -a"#;
        let command = Command::new("sh").args(["-c", script]);
        let command = command.arg(env!("CARGO_BIN_EXE_larder")).args(arguments);
        Self::spawn(columns, url, command)
    }

    /// Runs the command alone, as the process of the terminal.
    pub(super) fn start_alone(columns: u16, url: &str, arguments: &[&str]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_larder")).args(arguments);
        Self::spawn(columns, url, command)
    }

    fn spawn(columns: u16, url: &str, command: Command) -> Self {
        let (pty, pts) = pty_process::open().unwrap();
        pty.resize(Size::new(ROWS, columns)).unwrap();
        let command = command.env("REDIS_URL", url).env("TERM", "xterm");
        let child = command.kill_on_drop(true).spawn(pts).unwrap();
        let size = |number| NonZeroU16::new(number).unwrap();
        let parser = Parser::new(size(ROWS), size(columns), 0);
        Self { pty, child, parser }
    }

    /// Gives it other columns, as a person does who drags its edge.
    pub(super) fn resize(&mut self, columns: u16) {
        let size = |number| NonZeroU16::new(number).unwrap();
        let screen = self.parser.screen_mut();
        screen.set_size(size(ROWS), size(columns));
        self.pty.resize(Size::new(ROWS, columns)).unwrap();
    }

    pub(super) fn screen(&self) -> &Screen {
        self.parser.screen()
    }

    pub(super) fn text(&self) -> String {
        self.screen().contents()
    }

    /// Presses keys.
    pub(super) async fn press(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).await.unwrap();
    }

    /// Waits until the screen is as it should be, however it is drawn. Returns its text.
    pub(super) async fn shows(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            while !is_so(&self.parser.screen().contents()) {
                assert!(self.read().await, "it has ended, and does not show {what}");
            }
        };
        let shown = timeout(LIMIT, waiting).await;
        let text = self.text();
        assert!(shown.is_ok(), "it does not show {what}:\n{text}");
        text
    }

    /// Reads what the command writes; false at the end.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.pty.read(&mut bytes).await {
            // The other end has been closed, which Linux reports as an error.
            Ok(0) | Err(_) => false,
            Ok(many) => {
                self.parser.process(&bytes[..many]);
                true
            }
        }
    }

    /// The id of the process of the terminal.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Waits for the end, and returns the exit code.
    pub(super) async fn end(&mut self) -> Option<i32> {
        let ending = async {
            while self.read().await {}
            self.child.wait().await.unwrap()
        };
        timeout(LIMIT, ending).await.expect("it ends").code()
    }

    /// Whether a program that has drawn on it has left the terminal as it was, by what it shows after the end.
    #[track_caller]
    pub(super) fn is_restored(&self) {
        let (screen, text) = (self.screen(), self.text());
        assert!(
            !screen.alternate_screen() && !screen.hide_cursor(),
            "{text}"
        );
        let settings: Vec<_> = text
            .split(|char: char| char.is_whitespace() || char == ';')
            .collect();
        for setting in ["icanon", "echo", "isig", "opost"] {
            assert!(settings.contains(&setting), "no {setting}:\n{text}");
        }
    }
}
