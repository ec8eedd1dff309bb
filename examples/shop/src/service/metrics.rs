//! The metrics of the caches, for a Prometheus.

use std::sync::Mutex;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::time::sleep;

use super::watch::held;

/// The bounds of the histograms, in seconds.
const SECONDS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0];
/// Until the recorder looks after them it keeps each duration by itself.
const UPKEEP: Duration = Duration::from_secs(5);

/// A process has one recorder, also if all services run in it.
static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

pub(super) fn routes() -> Result<Router, BuildError> {
    let metrics = recorder()?;
    Ok(Router::new().route("/metrics", get(async move || metrics.render())))
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    let mut recorder = held(&RECORDER);
    if let Some(recorder) = &*recorder {
        return Ok(recorder.clone());
    }
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(durations, &SECONDS)?;
    let started = builder.install_recorder()?;
    let upkeep = started.clone();
    tokio::spawn(async move {
        loop {
            sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    *recorder = Some(started.clone());
    Ok(started)
}
