//! What is logged while a future runs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio::runtime::Builder;
use tracing::Level;

use super::unlocked::check;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Runs this on a runtime of this thread, and writes to the log what is logged there from this level on.
    pub(crate) fn record(&self, level: Level, run: impl Future<Output = ()>) {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || {
                check("a subscriber");
                writer.clone()
            })
            .finish();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || runtime.block_on(run));
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
