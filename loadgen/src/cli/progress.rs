//! Shows how far a run is: a bar on a terminal, else a line now and then. Writes to standard error only.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::stats::Stats;
use crate::verify::Progress;

const REDRAW: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(5);
const COUNTED: &str = "{prefix} {bar:30} {human_pos}/{human_len} {msg}";
const UNCOUNTED: &str = "{prefix} {spinner} {human_pos} {msg}";

fn bar(prefix: &'static str, length: Option<u64>) -> ProgressBar {
    // On anything but a terminal, indicatif draws nothing.
    let bar = ProgressBar::new(length.unwrap_or(0));
    let template = if length.is_some() { COUNTED } else { UNCOUNTED };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(prefix);
    bar
}

/// Shows a fleet's counts until it is told to stop.
pub(super) async fn show_run(stats: Arc<Stats>, expected: Option<u64>, stop: CancellationToken) {
    let terminal = stderr().is_terminal();
    let bar = bar("publishing", expected);
    let mut tick = tokio::time::interval(if terminal { REDRAW } else { LINE });
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => break,
        }
        let settled = stats.acked.get() + stats.dead_letters.get() + stats.refused.get();
        let (published, connected) = (stats.published.get(), stats.connected.get());
        let (resent, reconnects) = (stats.resent.get(), stats.reconnects.get());
        let trouble = match stats.last_error() {
            Some(error) if connected == 0 => format!(", not connected: {error}"),
            _ => String::new(),
        };
        let more = format!(
            "published, {settled} acknowledged, {resent} resent, {connected} connected, {reconnects} reconnects{trouble}"
        );
        if terminal {
            bar.set_position(published);
            bar.set_message(more);
        } else {
            eprintln!("{published} {more}");
        }
    }
    bar.finish_and_clear();
}

/// Shows how far a verification is.
pub(super) fn show_verification(expected: u64) -> impl Fn(Progress) + Send + Sync + 'static {
    let bar = bar("verifying", Some(expected));
    move |progress: Progress| {
        bar.set_position(progress.found);
        bar.set_message(progress.store);
        if progress.store == "clickhouse" && progress.found >= progress.expected {
            bar.finish_and_clear();
        }
    }
}
