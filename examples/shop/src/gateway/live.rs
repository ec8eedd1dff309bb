//! The stream of events that the page draws: what happens in the caches of all instances, and their state each second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::future::join_all;
use futures::{Stream, StreamExt, stream};
use reqwest::Client;
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::plan::{Instance, Plan};
use crate::service::watch::Report;
use crate::service::{Service, Way};

/// How many wait for a slow page. It misses those that come then.
const WAITING: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);

pub(super) async fn live(
    State(service): State<Arc<Service>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (sender, events) = channel(WAITING);
    // They end with the page.
    let mut tasks = JoinSet::new();
    let (plan, way, client) = (service.setup.plan, service.setup.way, &service.peers.client);
    for instance in plan.all() {
        tasks.spawn(follow(client.clone(), plan, instance, sender.clone()));
    }
    tasks.spawn(report(client.clone(), plan, way, sender));
    let events = stream::unfold((events, tasks), |(mut events, tasks)| async {
        let event: String = events.recv().await?;
        Some((Ok(Event::default().data(event)), (events, tasks)))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Hands on the events of an instance, for as long as the page is open.
async fn follow(client: Client, plan: Plan, instance: Instance, page: Sender<String>) {
    let url = format!("http://{}/internal/events", plan.address(instance));
    loop {
        if let Ok(response) = client.get(&url).send().await {
            let mut chunks = response.bytes_stream();
            let mut text = String::new();
            while let Some(Ok(chunk)) = chunks.next().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
                while let Some((event, rest)) = text.split_once("\n\n") {
                    if let Some(data) = event.strip_prefix("data: ") {
                        _ = page.try_send(data.to_owned());
                    }
                    text = rest.to_owned();
                }
            }
        }
        // It is down, or starts again.
        sleep(SECOND / 2).await;
    }
}

async fn report(client: Client, plan: Plan, way: Way, page: Sender<String>) {
    let mut ticks = interval(SECOND);
    loop {
        ticks.tick().await;
        let reports = reports(&client, plan).await;
        let event = json!({ "kind": "reports", "way": way, "reports": reports });
        _ = page.try_send(event.to_string());
    }
}

/// The states of all instances.
pub(super) async fn reports(client: &Client, plan: Plan) -> Vec<Report> {
    let each = plan.all().map(async |instance| {
        let url = format!("http://{}/internal/report", plan.address(instance));
        let report = async {
            let response = client.get(url).timeout(SECOND / 2).send().await?;
            response.json::<Report>().await
        };
        report.await.unwrap_or_else(|_| Report::down(instance))
    });
    join_all(each).await
}
