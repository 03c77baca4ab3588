//! `penstock run`: composes roles into one process.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use penstock_service::admin::{self, Readiness};
use penstock_service::metrics::Registry;
use penstock_service::shutdown::{self, Signals};
use penstock_service::{Config, telemetry};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::common::{Common, Role, runtime};
use crate::limits;

/// How long the process waits beyond the roles' own deadlines for what they left behind.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Runs the named roles, or those that are configured, until a signal or until one fails.
pub(crate) fn run(common: &Common, roles: Vec<Role>) -> anyhow::Result<ExitCode> {
    let config = Arc::new(common.load()?.config);
    telemetry::init(&config.telemetry)?;
    limits::raise_open_files();
    let roles: BTreeSet<Role> =
        if roles.is_empty() { default_roles(&config) } else { roles.into_iter().collect() };
    let runtime = runtime()?;
    let outcome = runtime.block_on(serve(config, &roles));
    runtime.shutdown_timeout(LAST_WAIT);
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What runs when no role is named.
fn default_roles(config: &Config) -> BTreeSet<Role> {
    let mut roles = BTreeSet::from([Role::Gateway, Role::Writer, Role::Alerts]);
    if penstock_notifier::is_configured(&config.notify) {
        roles.insert(Role::Notify);
    }
    roles
}

async fn serve(config: Arc<Config>, roles: &BTreeSet<Role>) -> anyhow::Result<()> {
    let signals = shutdown::signals().context("cannot take over signals")?;
    let admin_listen = config.telemetry.admin_listen;
    let listener = TcpListener::bind(admin_listen).await.with_context(|| {
        format!("telemetry.admin_listen: cannot listen on {admin_listen}; is another process there?")
    })?;
    let mut registry = Registry::new();
    let readiness = Readiness::new();
    let mut running = JoinSet::new();
    for role in roles {
        start(*role, &mut running, &config, &mut registry, &readiness, &signals);
    }
    // Probes and metrics go on while the roles drain, so this ends last.
    let admin_end = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listener, Arc::new(registry), readiness, admin_end.clone()));
    let outcome = supervise(running, &signals.shutdown).await;
    admin_end.cancel();
    let _ = tokio::time::timeout(LAST_WAIT, admin).await;
    info!("stopped");
    outcome
}

fn start(
    role: Role,
    running: &mut JoinSet<anyhow::Result<()>>,
    config: &Arc<Config>,
    registry: &mut Registry,
    readiness: &Readiness,
    signals: &Signals,
) {
    match role {
        Role::Gateway => {
            let parts = penstock_gateway::Parts {
                config: Arc::clone(config),
                metrics: penstock_gateway::Metrics::register(registry),
                bridge_metrics: penstock_bridge::Metrics::register(registry),
                readiness: readiness.clone(),
                reloads: signals.reloads.clone(),
                shutdown: signals.shutdown.clone(),
            };
            let gateway = penstock_gateway::run(parts);
            running.spawn(async move { gateway.await.context("gateway") });
        }
        Role::Writer => {
            let metrics = penstock_storage_writer::Metrics::register(registry);
            let writer = penstock_storage_writer::run(config, metrics, readiness, signals.shutdown.clone());
            running.spawn(async move { writer.await.context("writer") });
        }
        Role::Alerts => {
            let metrics = penstock_alerter::Metrics::register(registry);
            let (reloads, shutdown) = (signals.reloads.clone(), signals.shutdown.clone());
            let alerts = penstock_alerter::run(config, metrics, readiness, reloads, shutdown);
            running.spawn(async move { alerts.await.context("alerts") });
        }
        Role::Notify => {
            let metrics = penstock_notifier::Metrics::register(registry);
            let notifier = penstock_notifier::run(config, metrics, readiness, signals.shutdown.clone());
            running.spawn(async move { notifier.await.context("notify") });
        }
    }
}

/// Waits for every role. One that fails ends the others in good order: half a Penstock is not one.
async fn supervise(
    mut running: JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.context("a role panicked").and_then(|ended| ended);
        if let Err(error) = ended {
            shutdown.cancel();
            if outcome.is_ok() {
                outcome = Err(error);
            }
        }
    }
    outcome
}
