//! The server of a fleet, and what it says of itself.

use larder::l2::deadpool_redis::redis::aio::MultiplexedConnection;
use larder::l2::deadpool_redis::redis::cmd;
use tokio::runtime::Runtime;

use crate::support::tests::redis_server::RedisServer;

pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    redis: RedisServer,
    pub(crate) connection: MultiplexedConnection,
}

/// What it has done since its start, and the connections that it has.
pub(crate) struct Counts {
    pub(crate) cpu_ms: f64,
    pub(crate) scripts: f64,
    /// That it has received.
    pub(crate) bytes: f64,
    pub(crate) connections: f64,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let redis = runtime.block_on(RedisServer::start());
        let connection = runtime.block_on(redis.connection());
        Self {
            runtime,
            redis,
            connection,
        }
    }

    pub(crate) fn url(&self) -> String {
        self.redis.url()
    }

    pub(crate) fn kill(&mut self) {
        self.redis.kill();
    }

    /// Starts it again, without its data.
    pub(crate) fn restart(&mut self) {
        self.runtime.block_on(self.redis.restart());
        self.connection = self.runtime.block_on(self.redis.connection());
    }

    pub(crate) fn cpu_ms(&self) -> f64 {
        self.runtime.block_on(cpu_ms(&self.connection))
    }

    pub(crate) fn accepted(&self) -> f64 {
        self.runtime.block_on(accepted(&self.connection))
    }

    pub(crate) fn counts(&self) -> Counts {
        let connection = &self.connection;
        self.runtime.block_on(async {
            let scripts = info(connection, "commandstats").await;
            let scripts = scripts
                .lines()
                .filter(|line| line.starts_with("cmdstat_eval"));
            let calls = scripts.map(|line| number(line.split(['=', ',']).nth(1)));
            let stats = info(connection, "stats").await;
            let clients = info(connection, "clients").await;
            Counts {
                cpu_ms: cpu_ms(connection).await,
                scripts: calls.sum(),
                bytes: field(&stats, "total_net_input_bytes:"),
                // Without this one.
                connections: field(&clients, "connected_clients:") - 1.0,
            }
        })
    }
}

pub(crate) async fn cpu_ms(connection: &MultiplexedConnection) -> f64 {
    let cpu = info(connection, "cpu").await;
    (field(&cpu, "used_cpu_sys:") + field(&cpu, "used_cpu_user:")) * 1e3
}

/// How many connections it has accepted.
pub(crate) async fn accepted(connection: &MultiplexedConnection) -> f64 {
    field(
        &info(connection, "stats").await,
        "total_connections_received:",
    )
}

async fn info(connection: &MultiplexedConnection, section: &str) -> String {
    let mut info = cmd("INFO");
    let info = info.arg(section);
    info.query_async(&mut connection.clone()).await.unwrap()
}

fn field(info: &str, name: &str) -> f64 {
    number(info.lines().find_map(|line| line.strip_prefix(name)))
}

fn number(text: Option<&str>) -> f64 {
    text.unwrap().trim().parse().unwrap()
}
