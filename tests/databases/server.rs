//! A server of a database that belongs to one test, with its data in a temporary directory.

use std::fs::{File, create_dir};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sqlx::{Connection, MySqlConnection, PgConnection};

use crate::support::program::Dir;
use crate::support::redis_server::ReservedPort;
use crate::support::signal;

/// Generous, because a busy test machine is no reason to fail.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

/// A server on a port of 127.0.0.1; it and its data are gone when this is dropped.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    dir: Dir,
    port: ReservedPort,
}

impl Server {
    pub(crate) async fn start(kind: Kind) -> Self {
        let (dir, port) = (Dir::new(), ReservedPort::new());
        let data = dir.join("data");
        create_dir(&data).unwrap();
        if let Some((user, group)) = kind.user() {
            chown(&data, Some(user), Some(group)).unwrap();
        }
        let mut init = kind.init(&data);
        let done = init.output().unwrap_or_else(|error| {
            let program = init.get_program().display();
            panic!("{program}: {error}; `sh tests/proof.sh databases` installs it")
        });
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{kind:?} has no database: {said}");
        let child = kind.launch(&dir, port.number);
        let mut server = Self {
            kind,
            child,
            dir,
            port,
        };
        server.answers().await;
        if kind == Kind::MariaDb {
            let mut db = MySqlConnection::connect(&server.url_of("mysql"))
                .await
                .unwrap();
            let create = sqlx::raw_sql("CREATE DATABASE shop CHARACTER SET utf8mb4");
            create.execute(&mut db).await.unwrap();
        }
        server
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("shop")
    }

    fn url_of(&self, database: &str) -> String {
        let port = self.port.number;
        match self.kind {
            Kind::Postgres => format!("postgres://larder@127.0.0.1:{port}/postgres"),
            Kind::MariaDb => format!("mysql://root@127.0.0.1:{port}/{database}"),
        }
    }

    /// Ends it, as for an upgrade: its connections are closed.
    pub(crate) fn stop(&mut self) {
        // For PostgreSQL it does not wait for clients.
        let name = match self.kind {
            Kind::Postgres => "INT",
            Kind::MariaDb => "TERM",
        };
        signal::send(self.child.id(), name);
        assert!(self.ends(), "{:?} does not end", self.kind);
    }

    /// Starts it again where it was.
    pub(crate) async fn start_again(&mut self) {
        self.child = self.kind.launch(&self.dir, self.port.number);
        self.answers().await;
    }

    /// Stops its clock, so to speak: connections stay open and nothing is answered. `PostgreSQL` is many processes, so
    /// not that.
    pub(crate) fn pause(&self) {
        assert_eq!(self.kind, Kind::MariaDb);
        signal::send(self.child.id(), "STOP");
    }

    /// Lets it go on and answer what has piled up.
    pub(crate) fn resume(&self) {
        signal::send(self.child.id(), "CONT");
    }

    async fn answers(&mut self) {
        let (deadline, url) = (Instant::now() + LIMIT, self.url_of("mysql"));
        loop {
            let is_there = match self.kind {
                Kind::Postgres => PgConnection::connect(&url).await.is_ok(),
                Kind::MariaDb => MySqlConnection::connect(&url).await.is_ok(),
            };
            if is_there {
                return;
            }
            let is_running = matches!(self.child.try_wait(), Ok(None));
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(
                is_running && Instant::now() < deadline,
                "{:?} does not answer; it said:\n{log}",
                self.kind
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn ends(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.resume();
        if self.kind == Kind::Postgres {
            // It ends its other processes first. SIGKILL would leave them for a moment.
            signal::send(self.child.id(), "QUIT");
            self.ends();
        }
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Kind {
    /// Creates the files of a database.
    fn init(self, data: &Path) -> Command {
        let data = data.display();
        match self {
            Self::Postgres => {
                let mut init = self.command("initdb");
                init.args(["--username=larder", "--auth=trust", "--no-sync"])
                    .args(["--encoding=UTF8", "--locale=C"])
                    .arg(format!("--pgdata={data}"));
                init
            }
            Self::MariaDb => {
                let mut init = self.command("mariadb-install-db");
                init.args(["--no-defaults", "--skip-test-db"])
                    .arg("--auth-root-authentication-method=normal")
                    .arg(format!("--datadir={data}"));
                // A server that starts deletes the temporary tables in this directory, also those of other servers.
                init.env("TMPDIR", data.to_string());
                init
            }
        }
    }

    fn launch(self, dir: &Dir, port: u16) -> Child {
        let (data, log) = (dir.join("data"), dir.join("log"));
        let data = data.display();
        let mut command = match self {
            Self::Postgres => {
                let mut server = self.command("postgres");
                server
                    .args(["-D", &data.to_string(), "-p", &port.to_string(), "-F"])
                    .args(["-c", "listen_addresses=127.0.0.1"])
                    .args(["-c", "unix_socket_directories="]);
                server
            }
            Self::MariaDb => {
                let mut server = self.command("mariadbd");
                server.env("TMPDIR", data.to_string());
                server.arg("--no-defaults").args([
                    format!("--datadir={data}"),
                    format!("--port={port}"),
                    format!("--socket={data}/socket"),
                    format!("--pid-file={data}/pid"),
                    "--bind-address=127.0.0.1".to_owned(),
                    "--innodb-flush-log-at-trx-commit=0".to_owned(),
                ]);
                server
            }
        };
        let log = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command.spawn().unwrap()
    }

    /// Not as root, which both refuse.
    fn command(self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.user() {
            // The caller's directory may be closed to that user.
            command.uid(user).gid(group).current_dir("/");
        }
        command
    }

    /// The user of the server's package, and its group, if the tests run as root.
    fn user(self) -> Option<(u32, u32)> {
        let id = |arguments: &[&str]| -> u32 {
            let said = Command::new("id").args(arguments).output().unwrap().stdout;
            let said = String::from_utf8(said).unwrap();
            said.trim().parse().unwrap()
        };
        let name = match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mysql",
        };
        (id(&["-u"]) == 0).then(|| (id(&["-u", name]), id(&["-g", name])))
    }
}
