//! A few `SQLite` connections, used on the threads that may block.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::db::DbError;

/// How long a statement waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// At most `size` connections to one file, opened when first needed.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    pub(crate) fn new(path: PathBuf, size: usize) -> Self {
        let shared = Shared {
            path,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(size)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs `work` on a connection of its own, off the async threads.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, DbError>
    where
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&shared.permits).acquire_owned().await?;
        let done = spawn_blocking(move || {
            // Held in the closure, not outside: the work goes on even if the caller is cancelled.
            let _permit = permit;
            let mut connection = shared.take()?;
            let done = work(&mut connection);
            shared.put_back(connection);
            done
        });
        Ok(done.await??)
    }
}

impl Shared {
    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.lock().pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    fn put_back(&self, connection: Connection) {
        // A connection with an open transaction would block the others.
        if connection.is_autocommit() {
            self.lock().push(connection);
        }
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
